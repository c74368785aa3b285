"""Nodes end equal, whatever the network does, and hold nothing that they should not."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import msgspec
import numpy as np
import pytest
from blake3 import blake3

from spikemesh.codec import Refused, decode_message, encode_message, sign_record
from spikemesh.crdt import Delta, IntegerSum, Replica, SyncMessage
from spikemesh.errors import Divergence
from spikemesh.node import Node
from spikemesh.sim.run import contribution, identity, make_delta, retraction
from tests.node.world import World, digests, in_world, publish


def test_a_contribution_reaches_everybody_through_any_peer(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await world.start(1)
        second = await world.start(2, first)
        third = await world.start(3, second)
        await publish(first, *contribution(1, 1))
        await publish(third, *contribution(3, 1))
        await world.until(lambda: all(len(n.ledger.replica.records) == 2 for n in (first, second, third)), timeout_s=10)
        assert len({digests(node) for node in (first, second, third)}) == 1
        assert len(third.peers.addresses()) == 2

    in_world(tmp_path, story)


def test_loss_and_a_partition_only_delay(tmp_path: Path) -> None:
    cut: set[frozenset[bytes]] = set()

    def link(sender: bytes, receiver: bytes, rng: random.Random) -> float | None:
        if frozenset((sender, receiver)) in cut or rng.random() < 0.2:
            return None
        return rng.uniform(0.01, 0.2)

    async def story(world: World) -> None:
        nodes: list[Node] = []
        for number in range(1, 6):
            nodes.append(await world.start(number, *nodes[:2]))
        await world.until(lambda: all(len(node.peers.addresses()) == 4 for node in nodes), timeout_s=600)
        cut.update(frozenset((a.id, b.id)) for a in nodes[:2] for b in nodes[2:])
        for number, node in enumerate(nodes, 1):
            await publish(node, *contribution(number, 1))
        await world.until_equal(*nodes[:2], timeout_s=600)
        await world.until_equal(*nodes[2:], timeout_s=600)
        assert digests(nodes[0]) != digests(nodes[2])
        cut.clear()
        await world.until_equal(*nodes, timeout_s=600)
        assert len(nodes[0].ledger.replica.records.visible) == 5

    in_world(tmp_path, story, link=link, seed=3)


def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await world.start(1)
        second = await world.start(2, first)
        for seq in range(1, 21):  # beyond one save of the sum
            await publish(first, *contribution(1, seq))
        await world.until_equal(first, second)
        before = digests(second)
        await world.stop(2)
        await publish(first, *contribution(1, 21))
        again = await world.start(2, first)
        assert len(again.ledger.replica.records) >= 20
        await world.until_equal(first, again)
        assert digests(again) != before
        await world.stop(2)
        alone = await world.start(2)
        assert digests(alone) == digests(first)

    in_world(tmp_path, story)


def test_a_newcomer_takes_a_vouched_snapshot_instead_of_the_history(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await world.start(1)
        second = await world.start(2, first)
        for seq in range(1, 31):
            await publish(first, *contribution(1, seq))
        await world.until_equal(first, second)
        newcomer = await world.start(3, first)
        assert digests(newcomer) == digests(first)
        assert newcomer.started_from_snapshot
        assert newcomer.num_vouchers == 1
        assert newcomer.admission.num_deltas_fetched == 0
        await world.stop(3)
        again = await world.start(3)
        assert digests(again) == digests(first)

    in_world(tmp_path, story)


def test_a_newcomer_downloads_one_snapshot_and_little_else(tmp_path: Path) -> None:
    """Bytes are counted: records and sum once, not the history of 200 deltas, before it could train."""

    async def story(world: World) -> None:
        first = await world.start(1)
        second = await world.start(2, first)
        for seq in range(1, 201):
            await publish(first, *contribution(1, seq))
        await world.until_equal(first, second)
        offer = first.snapshots.offer()
        snapshot_bytes = offer.records_bytes + 8 * 300
        history_bytes = sum(len(make_delta(1000 + seq)) for seq in range(1, 201))
        newcomer = await world.start(3, first)  # returns when it has what it needs to train
        assert digests(newcomer) == digests(first)
        received = newcomer.transport.statistics().wire_received_bytes
        assert snapshot_bytes < received < snapshot_bytes + 4096 < history_bytes
        assert newcomer.admission.num_deltas_fetched == 0

    in_world(tmp_path, story)


def test_a_snapshot_is_joined_to_what_came_meanwhile(tmp_path: Path) -> None:
    """More came than the snapshot stands for: its deltas are not here, and it must still be the one to start from."""

    async def story(world: World) -> None:
        first, second = await world.start(1), await world.start(2)
        for seq in range(1, 4):
            await publish(first, *contribution(1, seq))
        for seq in range(1, 6):
            await publish(second, *contribution(2, seq))
        await second.admission.adopt(first.ledger.replica)
        for seq in range(1, 6):
            await publish(first, *contribution(2, seq))
        assert digests(second) == digests(first)
        assert not second.ledger.store.blobs.has(contribution(1, 1)[0].body.delta_hash)

    in_world(tmp_path, story)


def test_a_retraction_undoes_to_the_bit_also_where_the_delta_never_was(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await world.start(1)
        records = []
        for seq in range(1, 13):
            record, delta = contribution(1, seq)
            records.append(record)
            await publish(first, record, delta)
        newcomer = await world.start(2, first)  # has the sum, not the deltas
        assert newcomer.admission.num_deltas_fetched == 0
        await publish(first, retraction(1, 13, records[3]))
        await world.until_equal(first, newcomer)
        assert newcomer.admission.num_deltas_fetched == 1
        never = await world.start(9)
        for seq in (s for s in range(1, 13) if s != 4):
            await publish(never, *contribution(1, seq))
        assert never.ledger.replica.sum.digest == newcomer.ledger.replica.sum.digest

    in_world(tmp_path, story)


def test_both_payloads_of_an_equivocator_stay_out_everywhere(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await world.start(1)
        second = await world.start(2, first)
        empty = digests(first)[1]
        await publish(first, *contribution(3, 1))
        await world.until_equal(first, second)
        third = await world.start(4)
        await publish(third, *contribution(3, 1, delta=make_delta(99)))
        await third.enter((first.transport.address,))
        await world.until(
            lambda: all(n.ledger.replica.records.equivocations for n in (first, second, third)), timeout_s=30
        )
        await world.until_equal(first, second, third)
        assert digests(first)[1] == empty

    in_world(tmp_path, story)


def test_a_sum_that_differs_for_the_same_records_is_noticed(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await world.start(1)
        second = await world.start(2, first)
        third = await world.start(3, first)
        await publish(first, *contribution(1, 1))
        await world.until_equal(first, second, third)
        good = second.ledger.replica
        bad_memory = good.sum.fold([(Delta(300, np.array([7]), np.array([1], np.int32)), 1)])
        second.ledger.replica = Replica(good.records, bad_memory)
        await world.until(
            lambda: second.id in first.gossip.diverged and second.id in third.gossip.diverged, timeout_s=60
        )
        await publish(first, *contribution(1, 2))
        await world.until_equal(first, third)
        assert not first.gossip.diverged - {second.id}

    in_world(tmp_path, story)


def test_a_wrong_snapshot_is_not_taken(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await world.start(1)
        second = await world.start(2, first)
        for seq in range(1, 11):
            await publish(first, *contribution(1, seq))
        await world.until_equal(first, second)
        liar = second.ledger.replica
        second.ledger.replica = Replica(liar.records, IntegerSum.zero(300))
        with pytest.raises(Divergence, match="another sum for the same"):
            await world.start(3, second)

    in_world(tmp_path, story)


def test_garbage_from_a_peer_changes_nothing_and_is_not_asked_for_again(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        node = await world.start(1)
        liar = await world.start(2, node)
        before = digests(node)
        record, _ = contribution(2, 1)
        forged = dataclasses.replace(record, wire=record.wire[:-1] + bytes([record.wire[-1] ^ 1]))
        nonsense = b"not a delta at all"
        signed, _ = contribution(2, 2, delta=nonsense)
        liar.ledger.store.blobs.put(nonsense)
        await node.admission.admit([forged.wire, signed.wire, b"", b"\xff" * 5000], liar.transport.address)
        assert digests(node) == before
        assert node.admission.num_refused == 4
        await node.admission.admit([signed.wire], liar.transport.address)
        assert node.admission.num_refused == 4
        assert not node.ledger.store.blobs.has(blake3(nonsense).digest())

    in_world(tmp_path, story)


def test_a_record_whose_delta_nobody_delivers_comes_again(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        node = await world.start(1)
        other = await world.start(2, node)
        record, delta = contribution(2, 1)
        await node.admission.admit([record.wire], other.transport.address)
        assert len(node.ledger.replica.records) == 0 and node.admission.num_refused == 0
        await publish(other, record, delta)
        await world.until_equal(node, other)
        assert len(node.ledger.replica.records.visible) == 1

    in_world(tmp_path, story)


@pytest.mark.parametrize(
    "request_bytes", [b"", b"\x80", b"\xc1", b"\x00" * 100, encode_message(Refused(reason="x", text="y"))]
)
def test_every_request_gets_an_answer(tmp_path: Path, request_bytes: bytes) -> None:
    async def story(world: World) -> None:
        node = await world.start(1)
        reply = decode_message(await node.serve(identity(7).id, request_bytes))
        assert isinstance(reply, Refused)

    in_world(tmp_path, story)


def test_a_stranger_must_say_hello_first(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        node = await world.start(1)
        message = SyncMessage(set_digest=bytes(32), sum_digest=bytes(32))
        reply = decode_message(await node.serve(identity(7).id, encode_message(message)))
        assert isinstance(reply, Refused) and reply.reason == "stranger"

    in_world(tmp_path, story)


def test_signed_for_another_run_is_refused(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        node = await world.start(1)
        other = await world.start(2, node)
        record, _ = contribution(2, 1)
        body = msgspec.structs.replace(record.body, run_id=bytes(32))
        elsewhere = sign_record(body, identity(2).private_key)
        await node.admission.admit([elsewhere.wire], other.transport.address)
        assert node.admission.num_refused == 1

    in_world(tmp_path, story)


def test_a_retraction_of_a_rotten_delta_waits_until_the_delta_is_back(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await world.start(1)
        second = await world.start(2, first)
        record, delta = contribution(1, 1)
        await publish(first, record, delta)
        await world.until_equal(first, second)
        empty = IntegerSum.zero(300).digest
        name = blake3(delta).hexdigest()
        (tmp_path / "node-2" / "blobs" / name[:2] / name).write_bytes(b"rotten")
        await publish(first, retraction(1, 2, record))
        await world.until_equal(first, second)
        assert second.ledger.replica.sum.digest == empty

    in_world(tmp_path, story)
