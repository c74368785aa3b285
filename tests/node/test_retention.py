"""Disk is bounded, nothing that is needed inside the window goes, and no crash in the middle of it matters."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikemesh.codec import max_delta_bytes
from spikemesh.crdt import Contribution, Record
from spikemesh.errors import BlobMissing
from spikemesh.node import Ledger, Node
from spikemesh.node.ledger import WINDOW_DELTAS
from spikemesh.sim.run import GENESIS, RUN_ID, THETA0, contribution, retraction
from spikemesh.store import BlobStore, Store
from tests.node.world import World, digests, in_world, publish

LARGEST = max_delta_bytes(GENESIS.num_coordinates)
WINDOW = WINDOW_DELTAS * LARGEST
"""The smallest window that this run may have."""

POOL = [contribution(1, seq) for seq in range(1, 301)]
RETRACTIONS = [retraction(1, 1000 + number, record) for number, (record, _) in enumerate(POOL)]


class Killed(BaseException):
    """As if the process had ended here."""


def hash_of(record: Record) -> bytes:
    assert isinstance(record.body, Contribution)
    return record.body.delta_hash


def insert(ledger: Ledger, number: int) -> None:
    record, delta = POOL[number]
    ledger.insert([record], {hash_of(record): delta})


def newest(arrived: list[int]) -> set[bytes]:
    """The deltas that the window promises: the newest by arrival that fit into it."""
    promised: set[bytes] = set()
    total = 0
    for number in reversed(arrived):
        record, delta = POOL[number]
        total += len(delta)
        if total > WINDOW:
            break
        promised.add(hash_of(record))
    return promised


@settings(max_examples=40)
@given(st.data())
def test_nothing_needed_goes_and_the_disk_stays_below_its_bound(data: st.DataObject) -> None:
    """A long life of arrivals, retractions, confirmations, restarts and deaths at any deletion, against a model that
    only knows the order of arrival."""
    folder = Path(tempfile.mkdtemp())
    store = Store.open(folder)
    ledger = Ledger.open(store, GENESIS, RUN_ID, THETA0, 0)
    arrived: list[int] = []
    try:
        for action in data.draw(
            st.lists(st.sampled_from(["many", "one", "confirm", "save", "reopen", "killed", "retract"]), max_size=30)
        ):
            if action in ("many", "one"):
                for _ in range(20 if action == "many" else 1):
                    if len(arrived) < len(POOL):
                        arrived.append(len(arrived))
                        insert(ledger, arrived[-1])
            elif action == "confirm":
                ledger.confirm(ledger.replica.records.digest)
            elif action == "save":
                ledger.save()
            elif action == "retract" and arrived:
                number = data.draw(st.sampled_from(arrived))
                before = ledger.replica
                try:
                    ledger.insert([RETRACTIONS[number]], {})
                except BlobMissing:
                    assert hash_of(POOL[number][0]) not in newest(arrived)
                    assert ledger.replica is before
            elif action in ("killed", "reopen"):
                if action == "killed":
                    killed_in_a_collection(ledger, data.draw(st.integers(0, 3)))
                else:
                    ledger.save()
                before = ledger.replica
                store.close()
                store = Store.open(folder)
                ledger = Ledger.open(store, GENESIS, RUN_ID, THETA0, 0)
                assert ledger.replica.records.digest == before.records.digest
                assert ledger.replica.sum.digest == before.sum.digest
            held = set(store.blobs.hashes())
            assert newest(arrived) <= held
            assert store.blobs.total_bytes <= 2 * WINDOW + LARGEST
        expected = {record.id for record, _ in POOL[: len(arrived)]}
        assert {record.id for record in ledger.replica.records if isinstance(record.body, Contribution)} == expected
    finally:
        store.close()
        shutil.rmtree(folder)


def killed_in_a_collection(ledger: Ledger, after: int) -> None:
    original: Callable[[BlobStore, bytes], None] = BlobStore.delete
    left = after

    def delete(self: BlobStore, digest: bytes) -> None:
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        original(self, digest)

    BlobStore.delete = delete  # type: ignore[method-assign]
    try:
        ledger.save()
    except Killed:
        pass
    finally:
        BlobStore.delete = original  # type: ignore[method-assign]


def test_confirmed_deltas_go_beyond_one_window_and_others_beyond_two(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        ledger = Ledger.open(store, GENESIS, RUN_ID, THETA0, 0)
        number = 0
        while store.blobs.total_bytes <= 2 * WINDOW - 2 * LARGEST:
            insert(ledger, number)
            number += 1
        ledger.save()
        assert ledger.num_collected == 0
        ledger.confirm(bytes(32))
        ledger.save()
        assert ledger.num_collected == 0  # of a set that was never here
        ledger.confirm(ledger.replica.records.digest)
        ledger.save()
        assert ledger.num_collected > 0
        assert WINDOW - LARGEST < store.blobs.total_bytes <= WINDOW
        before = ledger.num_collected
        while ledger.num_collected == before:  # nobody confirms any more
            insert(ledger, number)
            number += 1
            assert store.blobs.total_bytes <= 2 * WINDOW + LARGEST


def test_a_leftover_of_a_crash_goes_and_the_start_stays(tmp_path: Path) -> None:
    import msgspec

    with Store.open(tmp_path) as store:
        start = store.blobs.put(b"the start")
        genesis = msgspec.structs.replace(GENESIS, init_hash=start)
        leftover = store.blobs.put(b"a delta whose record never came")
        Ledger.open(store, genesis, RUN_ID, THETA0, 0)
        assert store.blobs.has(start) and not store.blobs.has(leftover)


def test_a_snapshot_is_joined_from_the_side_whose_deltas_are_here(tmp_path: Path) -> None:
    """The own side is nearer by count, and lacks a delta that nobody keeps: the sum starts from the snapshot then."""
    mine, theirs = [contribution(2, seq) for seq in range(1, 11)], POOL[:3]
    with Store.open(tmp_path / "a") as a, Store.open(tmp_path / "b") as b:
        own, other = (Ledger.open(store, GENESIS, RUN_ID, THETA0, 0) for store in (a, b))
        own.insert([record for record, _ in mine], {hash_of(record): delta for record, delta in mine})
        other.insert([record for record, _ in theirs], {hash_of(record): delta for record, delta in theirs})
        own.adopt(other.replica)
        other.insert([record for record, _ in mine], {hash_of(record): delta for record, delta in mine})
        assert own.replica.sum.digest == other.replica.sum.digest
        again = Ledger.open(a, GENESIS, RUN_ID, THETA0, 0)
        assert again.replica == own.replica


async def publish_many(node: Node, author: int, first: int, last: int) -> list[Record]:
    records = []
    for seq in range(first, last + 1):
        record, delta = contribution(author, seq)
        await publish(node, record, delta)
        records.append(record)
    return records


def test_who_was_away_for_longer_than_the_window_comes_back_by_a_snapshot(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await world.start(1, window_bytes=0)
        second = await world.start(2, first, window_bytes=0)
        third = await world.start(3, first, window_bytes=0)
        await publish_many(first, 1, 1, 20)
        await world.until_equal(first, second, third)
        await world.stop(3)
        await publish_many(first, 1, 21, 150)
        await world.until_equal(first, second)
        assert first.ledger.num_collected > 60
        third = await world.start(3, window_bytes=0)
        await publish_many(third, 3, 1, 3)  # what it made while it was away counts too
        await third.enter((first.transport.address, second.transport.address))
        await world.until_equal(first, second, third, timeout_s=120)
        assert len(first.ledger.replica.records.visible) == 153
        never = await world.start(9)
        for seq in range(1, 151):
            await publish(never, *contribution(1, seq))
        for seq in range(1, 4):
            await publish(never, *contribution(3, seq))
        assert digests(never) == digests(third)

    in_world(tmp_path, story)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_contribution_can_be_taken_back_as_long_as_somebody_keeps_its_delta(tmp_path: Path, keeps: bool) -> None:
    async def story(world: World) -> None:
        options: dict[str, Any] = {} if keeps else {"window_bytes": 0}
        archive = await world.start(2, **options)
        first = await world.start(1, archive, window_bytes=0)
        third = await world.start(3, first, window_bytes=0)
        records = []
        for start in range(1, 151, 5):
            records += await publish_many(first, 1, start, start + 4)
            await world.until_equal(first, archive, third)
        target = records[0]
        assert not first.ledger.store.blobs.has(hash_of(target))
        before = digests(first)
        if not keeps:
            with pytest.raises(BlobMissing, match="Retract earlier, or keep more"):
                await publish(first, retraction(1, 151, target))
            assert digests(first) == before
            return
        await publish(first, retraction(1, 151, target))
        await world.until_equal(first, archive, third, timeout_s=120)
        assert target.id not in third.ledger.replica.records.visible
        assert digests(first) != before

    in_world(tmp_path, story)


def test_who_names_records_and_withholds_their_deltas_costs_ever_less(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        honest = await world.start(1)
        other = await world.start(2, honest)
        await publish_many(honest, 1, 1, 12)
        await world.until_equal(honest, other)
        liar = await world.start(7, honest)
        before = digests(honest)
        asked = 0
        serve = liar.snapshots.offer

        def offer() -> Any:
            nonlocal asked
            asked += 1
            return serve()

        liar.snapshots.offer = offer  # type: ignore[method-assign]
        for seq in range(1, 300):
            record, _ = contribution(7, seq)
            await honest.admission.admit([record.wire], liar.transport.address)
            await world.clock.sleep(2)
        assert asked <= 5 * 10
        assert digests(honest) == before

    in_world(tmp_path, story)


def test_bucket_volunteers_come_back_by_a_snapshot_too(tmp_path: Path) -> None:
    from tests.node.test_bucket import faulty, start

    async def story(world: World) -> None:
        bucket = faulty(world)
        first = await start(world, 1, bucket)
        second = await start(world, 2, faulty(world))
        await publish_many(first, 1, 1, 5)
        await world.until_equal(first, second)
        await world.stop(2)
        other = await start(world, 4, faulty(world))
        records = await publish_many(first, 1, 6, 140)
        await world.until_equal(first, other, timeout_s=600)
        await world.until(lambda: len(bucket.inner.page("snapshots")) > 0, timeout_s=400)
        for record in records[:10]:  # nobody keeps these
            bucket.inner.delete(f"blobs/{hash_of(record).hex()}")
            for node in (first, other):
                node.ledger.store.blobs.delete(hash_of(record))
        second = await start(world, 2, faulty(world))
        await world.until_equal(first, second, timeout_s=900)

    in_world(tmp_path, story)
