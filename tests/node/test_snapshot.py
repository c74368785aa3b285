"""A newcomer's download: from everybody who has it, on the disk piece by piece, not taken away by the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from spikemesh.codec import GetSnapshot, Hello, Snapshot, decode_message
from spikemesh.node import Node
from spikemesh.node.offers import IN_USE_S, LONGEST_OFFER_S, MAX_HELD
from spikemesh.node.snapshot import Pieces, ask_for_offer, begun
from spikemesh.sim.run import contribution
from spikemesh.transport import PeerAddress
from tests.node.world import World, digests, in_world, publish


async def two_with_a_history(world: World) -> tuple[Node, Node]:
    first = await world.start(1)
    second = await world.start(2, first)
    for seq in range(1, 101):
        await publish(first, *contribution(1, seq))
    await world.until_equal(first, second)
    await world.clock.sleep(IN_USE_S + 1)  # what the second was offered is not in use any more
    return first, second


def pieces_of(node: Node, offer: Snapshot, *sources: PeerAddress) -> Pieces:
    return Pieces(node.ledger, node.transport, node.offload, offer, sources)


def test_a_restart_goes_on_with_the_pieces_that_are_there(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first, second = await two_with_a_history(world)
        third = await world.start(3)
        offer = await ask_for_offer(third.transport, first.transport.address, third.ledger)
        pieces = pieces_of(third, offer, first.transport.address)
        await pieces.begin()
        await pieces.fetch(offer.records_hash, offer.records_bytes)
        await world.stop(3)
        await world.stop(1)
        third = await world.start(3)
        assert begun(third.ledger.store) == offer.set_digest
        await third._adopt_snapshot(second.transport.address)  # the other one offers the same
        assert digests(third) == digests(second)
        assert third.transport.statistics().wire_received_bytes < offer.records_bytes
        assert begun(third.ledger.store) is None and not [*third.ledger.store.pieces.hashes()]

    in_world(tmp_path, story)


def test_what_was_begun_is_offered_again_although_the_run_went_on(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first, _ = await two_with_a_history(world)
        third = await world.start(3)
        before = await ask_for_offer(third.transport, first.transport.address, third.ledger)
        await publish(first, *contribution(1, 101))
        again = await ask_for_offer(third.transport, first.transport.address, third.ledger, before.set_digest)
        other = await ask_for_offer(third.transport, first.transport.address, third.ledger, bytes(32))
        assert again == before != other
        left = pieces_of(third, before, first.transport.address)
        await left.begin()
        await left.fetch(before.records_hash, before.records_bytes)
        await pieces_of(third, other, first.transport.address).begin()
        assert not [*third.ledger.store.pieces.hashes()], "pieces of a snapshot that is not wanted any more"

    in_world(tmp_path, story)


def test_pieces_come_from_everybody_who_offers_the_same(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first, second = await two_with_a_history(world)
        third = await world.start(3)
        third.peers.learn(second.transport.address)
        sent = [node.transport.statistics().wire_sent_bytes for node in (first, second)]
        await third._adopt_snapshot(first.transport.address)
        shares = [
            node.transport.statistics().wire_sent_bytes - before
            for node, before in zip((first, second), sent, strict=True)
        ]
        assert min(shares) > 8 * len(first.ledger.theta0)  # the records from one, the sum from the other

    in_world(tmp_path, story)


def test_offers_stay_while_somebody_fetches_them_and_no_longer(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        node = await world.start(1)
        offers = []
        for seq in range(1, MAX_HELD + 3):
            await publish(node, *contribution(1, seq))
            offers.append(node.snapshots.offer())
        assert offers[MAX_HELD:] == [offers[MAX_HELD - 1]] * 2, "with all places in use, the newest of these"
        assert all(node.snapshots.part(offer.records_hash) for offer in offers)
        await world.clock.sleep(IN_USE_S + 1)
        newest = node.snapshots.offer()
        assert newest.set_digest == node.ledger.replica.records.digest
        assert node.snapshots.part(offers[0].records_hash) is None
        end_s = world.clock.monotonic_s() + LONGEST_OFFER_S
        while world.clock.monotonic_s() < end_s:
            assert node.snapshots.part(newest.records_hash)
            await world.clock.sleep(IN_USE_S / 2)
        for seq in range(MAX_HELD + 3, 2 * MAX_HELD + 3):
            await publish(node, *contribution(1, seq))
            assert node.snapshots.offer().set_digest == node.ledger.replica.records.digest

    in_world(tmp_path, story)


Serve = Callable[[bytes, bytes], Awaitable[bytes]]


def serving(wrap: Callable[[Node, Serve], Serve]) -> Callable[[Node], None]:
    """For `World.start`: a node whose answers `wrap` changes."""

    def prepare(node: Node) -> None:
        node.serve = wrap(node, node.serve)  # type: ignore[method-assign]

    return prepare


def slow_to_offer(delay_s: float) -> Callable[[Node, Serve], Serve]:
    def wrap(node: Node, serve: Serve) -> Serve:
        async def answer(peer_id: bytes, request: bytes) -> bytes:
            reply = await serve(peer_id, request)
            if isinstance(decode_message(request), GetSnapshot):
                await node.clock.sleep(delay_s)
            return reply

        return answer

    return wrap


def slow_and_telling(delay_s: float) -> Callable[[Node, Serve], Serve]:
    """It tells whoever greets it of all it has, at once."""

    def wrap(node: Node, serve: Serve) -> Serve:
        slow, telling = slow_to_offer(delay_s)(node, serve), set()

        async def answer(peer_id: bytes, request: bytes) -> bytes:
            reply = await slow(peer_id, request)
            if isinstance(decode_message(request), Hello) and (peer := node.peers.get(peer_id)) is not None:
                telling.add(asyncio.ensure_future(node.gossip.exchange(peer)))
            return reply

        return answer

    return wrap


def test_a_newcomer_waits_for_its_snapshot_whatever_it_is_told_meanwhile(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await world.start(1, prepare=serving(slow_and_telling(5.0)))
        for seq in range(1, 31):
            await publish(first, *contribution(1, seq))
        entering = asyncio.ensure_future(world.start(3, first))
        await world.clock.sleep(4.0)
        await publish(first, *contribution(1, 31))
        newcomer = await entering
        assert newcomer.started_from_snapshot
        assert await world.until_equal(first, newcomer) < 0.2
        assert newcomer.admission.num_deltas_fetched == 1
        await publish(first, *contribution(1, 32))  # what comes later is taken in as ever
        await world.until_equal(first, newcomer)

    in_world(tmp_path, story)


def test_a_newcomer_asks_for_no_history_while_it_waits_for_its_snapshot(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await world.start(1, prepare=serving(slow_to_offer(9.0)))
        for seq in range(1, 101):
            await publish(first, *contribution(1, seq))
        offer = first.snapshots.offer()
        first.gossip.exchange = never  # type: ignore[method-assign, assignment]
        newcomer = await world.start(3, first)
        assert digests(newcomer) == digests(first)
        received = newcomer.transport.statistics().wire_received_bytes
        assert received < offer.records_bytes + 8 * len(first.ledger.theta0) + 4096

    async def never(*_: object) -> bool:
        return False

    in_world(tmp_path, story)


def test_a_snapshot_that_takes_too_long_does_not_keep_away_what_others_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spikemesh.node.node.SNAPSHOT_FIRST_S", 7.0)

    async def story(world: World) -> None:
        first = await world.start(1, prepare=serving(slow_and_telling(9.0)))
        for seq in range(1, 31):
            await publish(first, *contribution(1, seq))
        opened: list[Node] = []
        entering = asyncio.ensure_future(world.start(3, first, prepare=opened.append))
        await world.clock.sleep(6.5)
        [newcomer] = opened
        assert not len(newcomer.ledger.replica.records)
        await world.clock.sleep(1.0)
        assert len(newcomer.ledger.replica.records)
        assert not entering.done()
        await entering
        assert digests(newcomer) == digests(first)

    in_world(tmp_path, story)
