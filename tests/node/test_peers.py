"""Whom a node looks for, and how it talks to a peer that lives and says no."""

from __future__ import annotations

import random
from pathlib import Path

from spikemesh.codec import Refused, decode_message, encode_message
from spikemesh.crdt import SyncMessage, SyncState
from spikemesh.node import Node
from spikemesh.node.gossip import GossipConfig
from spikemesh.node.peers import PeerTable
from spikemesh.transport import PeerAddress
from tests.node.world import World, contribution, digests, identity, in_world, publish
from tests.virtual_time import VirtualClock, run_virtually


def table(num_answering: int, num_lost: int, num_strangers: int) -> PeerTable:
    peers = PeerTable(identity(0).id, VirtualClock(), random.Random(1))
    for number in range(1, num_answering + num_lost + num_strangers + 1):
        peers.learn(PeerAddress(id=identity(number).id))
        if number <= num_answering + num_lost:
            peers.succeeded(identity(number).id)
        if number > num_answering:
            peers.failed(identity(number).id)
    return peers


def test_lost_peers_are_looked_for_as_often_as_their_share_says() -> None:
    async def story() -> None:
        assert all(table(9, 0, 5).choose_lost() is None for _ in range(100))
        cut_off = table(2, 1, 5)
        assert sum(cut_off.choose_lost() is not None for _ in range(1000)) > 600
        assert all(table(0, 3, 5).choose_lost() for _ in range(100))
        dead = table(99, 1, 0)
        assert 5 <= sum(dead.choose_lost() is not None for _ in range(1000)) <= 40
        dead.succeeded(identity(100).id)
        assert all(dead.choose_lost() is None for _ in range(100))

    run_virtually(story())


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
