"""Whom a node talks to, whom it looks for, whom it tells of, and how it treats a peer that lives and says no."""

from __future__ import annotations

import random
from pathlib import Path

from spikemesh.codec import Refused, decode_message, encode_message
from spikemesh.crdt import SyncMessage, SyncState
from spikemesh.node import Node
from spikemesh.node.gossip import GossipConfig
from spikemesh.node.peers import MAX_PEERS, PeerTable
from spikemesh.sim.run import contribution, identity
from spikemesh.transport import PeerAddress
from tests.node.world import World, digests, in_world, publish


class Clock:
    now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    async def sleep(self, duration_s: float) -> None:
        raise NotImplementedError


def peer(number: int) -> PeerAddress:
    return PeerAddress(id=number.to_bytes(32, "big"))


def table(num_answering: int, num_silent: int, num_lost: int = 0) -> tuple[PeerTable, Clock]:
    """Peers that answer, that never did, and that did once, in this order."""
    clock = Clock()
    peers = PeerTable(peer(0).id, clock, random.Random(1))
    for number in range(1, 1 + num_answering + num_silent + num_lost):
        peers.learn(peer(number))
        if not num_answering < number <= num_answering + num_silent:
            peers.succeeded(peer(number).id)
        if number > num_answering + num_silent:
            peers.failed(peer(number).id)
    return peers, clock


def numbers(addresses: list[PeerAddress]) -> set[int]:
    return {int.from_bytes(address.id, "big") for address in addresses}


def test_news_go_to_peers_that_answer_and_greetings_to_others() -> None:
    peers, _ = table(5, 5)
    for _ in range(20):
        assert numbers([p.address for p in peers.choose(3)]) <= {1, 2, 3, 4, 5}
        assert numbers([p.address for p in peers.choose(1, strangers=True)]) <= {6, 7, 8, 9, 10}
    assert len(peers.choose(8)) == 8
    assert len(peers.choose(99)) == len(peers.choose(99, strangers=True)) == 10


def test_a_silent_peer_waits_for_its_turn_and_gets_it() -> None:
    peers, clock = table(0, 1)
    for _ in range(20):
        peers.failed(peer(1).id)
        assert not peers.choose(1)
        clock.now_s += 8.0
        assert peers.choose(1)


def test_over_time_everybody_is_told_of_and_never_more_than_asked_for() -> None:
    """The first 64 by id, told to everybody, made a swarm in which everybody knows the same 64."""
    peers, _ = table(100, 20)
    samples = [peers.sample(8, without=peer(7).id) for _ in range(200)]
    assert all(len(sample) == len(set(sample)) == 8 for sample in samples)
    assert set().union(*map(numbers, samples)) == set(range(1, 101)) - {7}
    few, _ = table(2, 20)
    assert {1, 2} <= numbers(few.sample(8, without=peer(7).id))


def test_a_full_table_keeps_the_peers_that_answer() -> None:
    peers, _ = table(3, 2 * MAX_PEERS)
    assert len(peers.addresses()) == MAX_PEERS
    assert {1, 2, 3} <= numbers([*peers.addresses()])


def test_lost_peers_are_looked_for_as_often_as_their_share_says() -> None:
    def share(num_answering: int, num_silent: int, num_lost: int) -> float:
        peers, _ = table(num_answering, num_silent, num_lost)
        return sum(peers.choose_lost() is not None for _ in range(1000)) / 1000

    assert share(9, 5, 0) == 0
    assert share(2, 5, 1) > 0.6
    assert share(0, 5, 3) == 1
    assert 0.005 <= share(99, 0, 1) <= 0.04
    back, _ = table(99, 0, 1)
    back.succeeded(peer(100).id)
    assert all(back.choose_lost() is None for _ in range(1000))


def test_a_long_partition_is_over_within_three_periods(tmp_path: Path) -> None:
    cut = False

    def link(sender: bytes, receiver: bytes, rng: random.Random) -> float | None:
        left = {identity(1).id, identity(2).id}
        return None if cut and (sender in left) != (receiver in left) else 0.05

    async def story(world: World) -> None:
        nonlocal cut
        nodes: list[Node] = []
        for number in range(1, 6):
            nodes.append(await world.start(number, *nodes[:1]))
        await world.until(lambda: all(node.peers.num_alive() == 4 for node in nodes), timeout_s=120)
        for seq in (1, 2, 3):
            cut = True
            for number, node in enumerate(nodes, 1):
                await publish(node, *contribution(number, seq))
            await world.clock.sleep(600)
            assert digests(nodes[0]) != digests(nodes[2])
            cut = False
            await world.until_equal(*nodes, timeout_s=3 * GossipConfig().period_s)

    in_world(tmp_path, story, link=link)


def test_a_peer_whose_inbox_is_full_stays_a_peer(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await world.start(1)
        second = await world.start(2, first)
        await world.until(lambda: first.peers.num_alive() == second.peers.num_alive() == 1, timeout_s=10)
        answer = second.gossip.answer_sync
        second.gossip.answer_sync = lambda *_: Refused(reason="busy", text="later")  # type: ignore[method-assign]
        record, delta = contribution(1, 1)
        first.ledger.insert([record], {record.body.delta_hash: delta})  # type: ignore[union-attr]
        there = first.peers.get(second.id)
        assert there is not None
        assert not await first.gossip.exchange(there)
        assert there.answered and there.sync == SyncState()
        second.gossip.answer_sync = answer  # type: ignore[method-assign]
        await world.until_equal(first, second)

    in_world(tmp_path, story)


def test_a_stranger_is_greeted_before_it_is_told_anything(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await world.start(1)
        second = await world.start(2)
        first.peers.learn(second.transport.address)
        stranger = SyncMessage(set_digest=bytes(32), sum_digest=bytes(32))
        refused = decode_message(await second.serve(first.id, encode_message(stranger)))
        assert isinstance(refused, Refused) and refused.reason == "stranger"
        peer = first.peers.get(second.id)
        assert peer is not None
        await publish(first, *contribution(1, 1))
        assert await first.gossip.exchange(peer)
        await world.until_equal(first, second, timeout_s=1.0)

    in_world(tmp_path, story)
