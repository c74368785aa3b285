from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from tests.store.samples import chunk, contents, row, saved_sum, sum_digest

from spikemesh.errors import StoreError
from spikemesh.store import RecordRow, Store

CHUNKS = {number: chunk(number, 0) for number in range(3)}
ROWS = [row(number) for number in range(5)]
IDS = [r.id for r in ROWS]


def test_records_come_back_in_order_of_arrival_and_only_once(store: Store) -> None:
    store.add_records(ROWS[2:])
    store.add_records(ROWS + ROWS)
    assert list(store.records()) == ROWS[2:] + ROWS[:2]


def test_the_first_wire_bytes_of_an_id_stay(store: Store) -> None:
    store.add_records(ROWS[:1])
    store.add_records([RecordRow(id=ROWS[0].id, author=ROWS[0].author, seq=7, wire=b"signed again")])
    assert list(store.records()) == ROWS[:1]


def test_more_records_than_a_page_while_others_arrive(store: Store) -> None:
    many = [row(number) for number in range(3000)]
    store.add_records(many)
    seen = []
    for r in store.records():
        seen.append(r)
        if len(seen) == 100:
            store.add_records([row(5000)])
    assert seen == [*many, row(5000)]


def test_a_row_that_no_record_can_be() -> None:
    for wrong in ({"id": b"short"}, {"author": b""}, {"seq": -1}, {"seq": 1 << 63}):
        fields = {"id": bytes(32), "author": bytes(32), "seq": 1, "wire": b""} | wrong
        with pytest.raises(ValueError, match="a record has an id"):
            RecordRow(**fields)  # type: ignore[arg-type]


def test_the_sum_comes_back_with_the_set_it_stands_for(store: Store) -> None:
    assert store.load_sum() is None
    store.add_records(ROWS)
    store.save_sum(CHUNKS, IDS[:2], sum_digest(CHUNKS))
    assert store.load_sum() == saved_sum(CHUNKS, ROWS[:2])
    later = CHUNKS | {1: chunk(1, 1)}
    store.save_sum({1: later[1]}, IDS[1:4], sum_digest(later))  # record 0 was retracted
    assert store.load_sum() == saved_sum(later, ROWS[1:4])


def test_a_snapshot_brings_its_records(store: Store) -> None:
    store.save_sum(CHUNKS, IDS, sum_digest(CHUNKS), records=ROWS)
    assert (store.load_sum(), list(store.records())) == (saved_sum(CHUNKS, ROWS), ROWS)


@pytest.mark.parametrize(
    ("dirty", "folded", "digest", "reason"),
    [
        ({1: chunk(1, 1)}, IDS[:2], sum_digest(CHUNKS), "is a changed chunk missing"),
        ({}, IDS[:2], sum_digest(CHUNKS | {1: chunk(1, 1)}), "is a changed chunk missing"),
        ({4: b""}, IDS[:2], sum_digest(CHUNKS), "without gaps"),
        ({-1: b""}, IDS[:2], sum_digest(CHUNKS), "without gaps"),
        ({}, [*IDS, bytes(32)], sum_digest(CHUNKS), "only stand for records"),
    ],
)
def test_a_sum_that_breaks_an_invariant_changes_nothing(
    store: Store, dirty: dict[int, bytes], folded: list[bytes], digest: bytes, reason: str
) -> None:
    store.save_sum(CHUNKS, IDS[:1], sum_digest(CHUNKS), records=ROWS[:4])
    before = contents(store)
    with pytest.raises(ValueError, match=reason):
        store.save_sum(dirty, folded, digest, records=ROWS)
    assert contents(store) == before


def test_values(store: Store) -> None:
    assert store.get_value("genesis") is None
    store.set_value("genesis", b"1")
    store.set_value("genesis", b"")
    store.set_value("Überschrift", b"\0")
    assert (store.get_value("genesis"), store.get_value("Überschrift")) == (b"", b"\0")


def test_all_of_it_after_a_restart(folder: Path) -> None:
    with Store.open(folder) as store:
        store.save_sum(CHUNKS, IDS, sum_digest(CHUNKS), records=ROWS)
        store.set_value("seq", b"5")
        store.blobs.put(b"blob")
        before = contents(store)
    with Store.open(folder) as store:
        assert contents(store) == before
    store.close()
    with pytest.raises(ValueError, match="is closed"):
        store.set_value("seq", b"6")


def test_another_format_is_refused(folder: Path) -> None:
    Store.open(folder).close()
    database = sqlite3.connect(folder / "node.sqlite")
    database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(StoreError, match="has format 2, this spikemesh reads format 1"):
        Store.open(folder)
