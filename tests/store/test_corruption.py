"""Bytes that change on the disk are found: an error, or what was written, never something else."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from tests.store.samples import chunk, contents, row, sum_digest

from spikemesh.errors import StoreCorrupt, StoreError
from spikemesh.store import Store

CHUNKS = {number: chunk(number, 0, 1000) for number in range(3)}
ROWS = [row(number) for number in range(6)]


@pytest.fixture
def closed(folder: Path) -> Path:
    """A closed store with something of everything."""
    with Store.open(folder) as store:
        store.save_sum(CHUNKS, [r.id for r in ROWS[:4]], sum_digest(CHUNKS), records=ROWS)
        store.set_value("seq", b"5")
    return folder


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE record SET wire = zeroblob(164) WHERE position = 3",
        "UPDATE record SET seq = seq + 1 WHERE position = 3",
        "UPDATE record SET author = zeroblob(32) WHERE position = 3",
        "UPDATE record SET id = zeroblob(32) WHERE position = 6",
        "UPDATE record SET seq = 'three' WHERE position = 3",
        "UPDATE record SET seal = zeroblob(32) WHERE position = 3",
        "UPDATE chunk SET data = zeroblob(1000) WHERE number = 1",
        "UPDATE chunk SET data = 7 WHERE number = 1",
        "UPDATE chunk SET data = CAST(zeroblob(1000) AS TEXT) WHERE number = 1",
        "UPDATE chunk SET number = 5 WHERE number = 0",
        "DELETE FROM chunk WHERE number = 2",
        "INSERT INTO chunk VALUES (3, x'', x'')",
        "DELETE FROM record WHERE position = 1",
        "UPDATE folded SET ids = substr(ids, 33)",
        "UPDATE folded SET ids = 7",
        "UPDATE folded SET digest = zeroblob(32)",
        "UPDATE value SET value = x'36'",
        "UPDATE value SET value = 5",
    ],
)
def test_a_changed_row_is_found(closed: Path, damage: str) -> None:
    database = sqlite3.connect(closed / "node.sqlite")
    database.execute(damage)
    database.commit()
    database.close()
    with Store.open(closed) as store, pytest.raises(StoreCorrupt, match="Move the folder away and join again"):
        contents(store)


def test_a_stale_hash_of_a_clean_chunk_is_found_when_the_sum_is_saved(closed: Path) -> None:
    database = sqlite3.connect(closed / "node.sqlite")
    database.execute("UPDATE chunk SET hash = zeroblob(32) WHERE number = 1")
    database.commit()
    database.close()
    with Store.open(closed) as store, pytest.raises(ValueError, match="digest"):
        store.save_sum({0: CHUNKS[0]}, [], sum_digest(CHUNKS))


def unordered(store: Store) -> dict[str, object]:
    """The order of records means nothing and is not sealed."""
    return contents(store) | {"records": sorted(store.records(), key=lambda r: r.id)}


def outcome(folder: Path, expected: dict[str, object]) -> str:
    try:
        with Store.open(folder) as store:
            assert unordered(store) == expected
            return "whole"
    except StoreError as error:
        return type(error).__name__


@pytest.mark.parametrize(
    ("table", "column", "letter"),
    [(b"record", b"MARY KEY", 0), (b"value", b"seq", 0), (b"value", b"seq", 2)],
)
def test_damage_that_would_hide_rows(closed: Path, table: bytes, column: bytes, letter: int) -> None:
    """Found by changing every byte in turn: a column that is no row number any more, a key nobody asks for."""
    whole = (closed / "node.sqlite").read_bytes()
    at = whole.rindex(column) if table == b"value" else whole.index(column, whole.index(b"CREATE TABLE " + table))
    damaged = bytearray(whole)
    damaged[at + letter] ^= 0x80
    (closed / "node.sqlite").write_bytes(damaged)
    with pytest.raises(StoreCorrupt):
        Store.open(closed)


@pytest.mark.parametrize("seed", range(4))
def test_any_changed_byte_of_the_database_is_found_or_without_effect(closed: Path, seed: int) -> None:
    with Store.open(closed) as store:
        expected = unordered(store)
    whole = (closed / "node.sqlite").read_bytes()
    rng = random.Random(seed)
    seen = set()
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= rng.randrange(1, 256)
        (closed / "node.sqlite").write_bytes(damaged)
        seen.add(outcome(closed, expected))
    assert seen <= {"whole", "StoreCorrupt", "StoreError"}
    assert {"whole", "StoreCorrupt"} <= seen


@pytest.mark.parametrize("seed", range(4))
def test_a_database_that_was_cut_or_overwritten_in_part(closed: Path, seed: int) -> None:
    with Store.open(closed) as store:
        expected = unordered(store)
    whole = (closed / "node.sqlite").read_bytes()
    rng = random.Random(seed)
    for _ in range(20):
        at = rng.randrange(1, len(whole))
        (closed / "node.sqlite").write_bytes(whole[:at])
        assert outcome(closed, expected) == "StoreCorrupt"
        page = at // 4096 * 4096
        (closed / "node.sqlite").write_bytes(whole[:page] + bytes(4096) + whole[page + 4096 :])
        assert outcome(closed, expected) == "StoreCorrupt"


def test_a_damaged_log_gives_the_last_whole_transaction(folder: Path) -> None:
    """The checksums of SQLite's log end it where they fail, as after a torn write."""
    with Store.open(folder) as store:
        for number in range(5):
            store.add_records([row(number)])
        shutil.copytree(folder, folder.with_name("copy"))
    log = folder.with_name("copy") / "node.sqlite-wal"
    whole = log.read_bytes()
    lengths = set()
    for at in range(0, len(whole), 997):
        copy = folder.with_name("damaged")
        shutil.copytree(folder.with_name("copy"), copy)
        (copy / "node.sqlite-wal").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with Store.open(copy) as store:
            records = list(store.records())
        assert records == [row(number) for number in range(len(records))]
        lengths.add(len(records))
        shutil.rmtree(copy)
    assert len(lengths) > 3
