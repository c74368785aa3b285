from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from blake3 import blake3
from tests.store.samples import chunk, contents, row, saved_sum, sum_digest

from spikemesh.errors import BlobMissing, StoreCorrupt
from spikemesh.store import Store

NUM_THREADS = 8


def together(work: Callable[[int], object]) -> None:
    """Run `work(0)`, `work(1)`, ... at once, from one start signal."""
    start = threading.Barrier(NUM_THREADS)

    def run(thread: int) -> None:
        start.wait()
        work(thread)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        list(pool.map(run, range(NUM_THREADS)))


def test_threads_write_and_read_everything_at_once(store: Store) -> None:
    def work(thread: int) -> None:
        for i in range(12):
            blob = chunk(i, 0, 2000)  # the same blobs from all threads
            assert store.blobs.get(store.blobs.put(blob)) == blob
            number = i * NUM_THREADS + thread
            store.add_records([row(number)])
            chunks = {0: chunk(0, number, 900), 1: chunk(1, number, 900)}
            store.save_sum(chunks, [row(number).id], sum_digest(chunks))
            store.set_value(f"value {thread}", str(i).encode())
            saved = store.load_sum()
            assert saved is not None and len(saved.folded_ids) == 1
            assert row(number) in list(store.records())

    together(work)
    assert {r.seq for r in store.records()} == set(range(12 * NUM_THREADS))
    saved = store.load_sum()
    assert saved in [saved_sum({0: chunk(0, n, 900), 1: chunk(1, n, 900)}, [row(n)]) for n in range(12 * NUM_THREADS)]
    assert [store.get_value(f"value {thread}") for thread in range(NUM_THREADS)] == [b"11"] * NUM_THREADS
    assert store.blobs.total_bytes == 12 * 2000 == sum(map(store.blobs.size, store.blobs.hashes()))
    assert not list(store.folder.rglob("*.unfinished"))


def test_a_reader_of_a_damaged_blob_never_takes_away_the_new_one(store: Store) -> None:
    data = chunk(0, 0, 3000)
    digest = blake3(data).digest()

    def work(thread: int) -> None:
        try:
            assert store.blobs.get(digest) == data
        except (StoreCorrupt, BlobMissing):
            store.blobs.put(data)

    for _ in range(30):
        store.blobs.put(data)
        (store.folder / "blobs" / digest.hex()[:2] / digest.hex()).write_bytes(b"?" * len(data))
        together(work)
        assert store.blobs.get(digest) == data
        assert store.blobs.total_bytes == len(data)


def test_closing_under_the_feet_of_others_is_a_named_error(store: Store) -> None:
    def work(thread: int) -> None:
        if thread == 0:
            store.close()
        for i in range(50):
            store.set_value(f"{thread}", str(i).encode())

    with pytest.raises(ValueError, match="is closed"):
        together(work)
    with Store.open(store.folder) as again:
        contents(again)
