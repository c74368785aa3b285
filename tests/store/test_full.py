"""Real limits of the system: a small file system that fills up, a file size limit, a read-only file system."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.machine import make_read_only, small_disk
from tests.store.samples import chunk, contents, row, sum_digest

from spikemesh.errors import StoreError, StoreFull
from spikemesh.files import write_file_atomic
from spikemesh.store import Store

CHUNK_BYTES = 100_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """3 MB of which a ballast file takes one, to be freed later."""
    with small_disk(tmp_path):
        (tmp_path / "ballast").write_bytes(bytes(1 << 20))
        yield tmp_path


def put_blob(store: Store, number: int) -> None:
    store.blobs.put(chunk(number, 0, CHUNK_BYTES))


def save_sum(store: Store, number: int) -> None:
    chunks = {i: chunk(i, number, CHUNK_BYTES) for i in range(number % 12 + 1)}
    stored = store.load_sum()
    chunks |= {i: chunk(i, number, CHUNK_BYTES) for i in range(len(stored.chunks) if stored else 0)}
    store.save_sum(chunks, [row(number).id], sum_digest(chunks), records=[row(number)])


def add_records(store: Store, number: int) -> None:
    store.add_records(map(row, range(number * 100, number * 100 + 100)))


def set_value(store: Store, number: int) -> None:
    store.set_value("seq", chunk(number, 0, 30_000 + number))


def write_file(store: Store, number: int) -> None:
    write_file_atomic(store.folder / f"{number}.state", chunk(number, 0, CHUNK_BYTES))


CALLS = [put_blob, save_sum, add_records, set_value, write_file]


def fill(store: Store, call: Callable[[Store, int], None]) -> int:
    """Repeat `call` until the disk is full; returns the number of the call that failed, having changed nothing."""
    for number in range(2000):
        before = contents(store)
        try:
            call(store, number)
        except StoreFull as error:
            assert str(store.folder) in str(error) and "run the same command again" in str(error)
            assert contents(store) == before
            assert not list(store.folder.rglob("*.unfinished"))
            return number
    raise AssertionError("the disk never filled up")


@pytest.mark.parametrize("call", CALLS)
def test_a_full_disk_loses_nothing_and_the_same_call_succeeds_later(
    disk: Path, call: Callable[[Store, int], None]
) -> None:
    with Store.open(disk / "node") as store:
        number = fill(store, call)
        before = contents(store)
    with Store.open(disk / "node") as store:  # opening needs no space
        assert contents(store) == before
        fill(store, call if call is not save_sum else put_blob)
        (disk / "ballast").unlink()
        call(store, number)
        after = contents(store)
    with Store.open(disk / "node") as store:
        assert contents(store) == after


@pytest.mark.parametrize("call", CALLS)
def test_a_file_size_limit_loses_nothing(folder: Path, call: Callable[[Store, int], None]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Store.open(folder) as store:
        limit = 500_000 if call in (save_sum, add_records, set_value) else 50_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            number = fill(store, call)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        call(store, number)
        after = contents(store)
    with Store.open(folder) as store:
        assert contents(store) == after


def test_no_space_to_open_a_new_store(disk: Path) -> None:
    (disk / "more").write_bytes(bytes(2_000_000))
    with pytest.raises(StoreFull, match=str(disk)):
        for number in range(200):
            Store.open(disk / f"node{number}").close()
    (disk / "more").unlink()
    with Store.open(disk / f"node{number}") as store:
        store.blobs.put(b"blob")


def test_a_read_only_disk_can_neither_be_opened_nor_written(disk: Path) -> None:
    Store.open(disk / "node").close()
    make_read_only(disk)
    with pytest.raises(StoreError, match="Make the folder writable"):
        Store.open(disk / "node")
    with pytest.raises(StoreError, match="Make the folder writable"):
        write_file_atomic(disk / "status.json", b"new")
