from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from blake3 import blake3

from spikemesh.errors import BlobMissing, StoreBusy, StoreCorrupt, StoreError
from spikemesh.files import write_file_atomic
from spikemesh.store import Store

DATA = b"some delta"
HASH = blake3(DATA).digest()


def blob_file(store: Store) -> Path:
    return store.folder / "blobs" / HASH.hex()[:2] / HASH.hex()


def test_a_blob_lies_where_the_design_says(store: Store) -> None:
    assert store.blobs.put(DATA) == HASH
    assert blob_file(store).read_bytes() == DATA


def test_put_verified_refuses_another_hash(store: Store) -> None:
    with pytest.raises(ValueError, match="do not have the hash"):
        store.blobs.put_verified(HASH, b"other")
    assert not store.blobs.has(HASH)


def test_a_blob_can_be_written_piece_by_piece(store: Store) -> None:
    with store.blobs.writing(len(DATA)) as blob:
        blob.write(5, DATA[5:])
        blob.write(0, DATA[:5])
        assert not store.blobs.has(HASH)
        with pytest.raises(ValueError, match=r"0\.\.10"):
            blob.write(8, b"beyond")
    assert blob.digest == HASH and store.blobs.get(HASH) == DATA
    assert store.blobs.total_bytes == len(DATA)
    with store.blobs.writing(3) as zeros:
        pass
    assert store.blobs.get(zeros.digest) == bytes(3)


def test_a_blob_that_is_not_finished_leaves_nothing(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), store.blobs.writing(9) as blob:
        blob.write(0, b"half")
        raise KeyboardInterrupt
    assert not [path for path in (store.folder / "blobs").rglob("*") if path.is_file()]


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    with Store.open(tmp_path / "node") as store:
        left = store.folder / "blobs" / "blob.12345678.unfinished"
    left.write_bytes(b"half")
    with Store.open(tmp_path / "node"):
        assert not left.exists()


def test_a_missing_blob(store: Store) -> None:
    for read in (store.blobs.get, store.blobs.size, lambda digest: store.blobs.read_range(digest, 0, 1)):
        with pytest.raises(BlobMissing, match=HASH.hex()):
            read(HASH)
    store.blobs.delete(HASH)
    with pytest.raises(ValueError, match="32 bytes"):
        store.blobs.has(b"short")


def test_ranges(store: Store) -> None:
    store.blobs.put(DATA)
    assert store.blobs.read_range(HASH, 5, 3) == DATA[5:8]
    assert store.blobs.read_range(HASH, 5, 300) == DATA[5:]
    assert store.blobs.read_range(HASH, 500, 3) == b""
    with pytest.raises(ValueError, match="negative"):
        store.blobs.read_range(HASH, -1, 3)


@pytest.mark.parametrize("damaged", [b"some dElta", b"", DATA + b"!"])
def test_a_damaged_blob_is_set_aside_and_can_be_fetched_again(store: Store, damaged: bytes) -> None:
    store.blobs.put(DATA)
    blob_file(store).write_bytes(damaged)
    with pytest.raises(StoreCorrupt, match="Fetch it from a peer"):
        store.blobs.get(HASH)
    assert not store.blobs.has(HASH)
    assert (store.folder / "corrupt" / HASH.hex()).read_bytes() == damaged
    store.blobs.put_verified(HASH, DATA)
    assert store.blobs.get(HASH) == DATA


def test_a_read_that_went_wrong_once_takes_nothing_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when another thread has put the blob anew since, or memory flipped a bit."""
    store.blobs.put(DATA)
    honest, reads = Path.read_bytes, []

    def damaged_once(path: Path) -> bytes:
        reads.append(path)
        return honest(path) if len(reads) > 1 else b"?" * len(DATA)

    monkeypatch.setattr(Path, "read_bytes", damaged_once)
    assert store.blobs.get(HASH) == DATA
    assert store.blobs.has(HASH)


def test_a_blob_of_the_wrong_length_is_written_anew(store: Store) -> None:
    store.blobs.put(DATA)
    blob_file(store).write_bytes(DATA[:3])
    store.blobs.put(DATA)
    assert store.blobs.get(HASH) == DATA


def test_open_removes_leftovers_and_leaves_other_files(folder: Path) -> None:
    with Store.open(folder) as store:
        store.blobs.put(DATA)
    shard = folder / "blobs" / HASH.hex()[:2]
    leftovers = [folder / "identity.key.00ff00ff.unfinished", shard / f"{HASH.hex()}.00ff00ff.unfinished"]
    others = [folder / "identity.key", shard / "README"]
    for path in leftovers + others:
        path.write_bytes(b"x")
    with Store.open(folder) as store:
        assert list(store.blobs.hashes()) == [HASH]
        assert store.blobs.total_bytes == len(DATA)
    assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in others)


def test_another_process_is_told_that_the_folder_is_busy(store: Store) -> None:
    code = "import sys; from pathlib import Path; from spikemesh.store import Store; Store.open(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, store.folder], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"StoreBusy: Another spikemesh process is using {store.folder}" in done.stderr


def test_a_store_is_busy_until_it_is_closed_or_failed_to_open(folder: Path) -> None:
    with Store.open(folder), pytest.raises(StoreBusy):
        Store.open(folder)
    (folder / "node.sqlite").write_bytes(b"not a database" * 100)
    for _ in range(2):
        with pytest.raises(StoreCorrupt, match="Move the folder away and join again"):
            Store.open(folder)


def test_open_without_create_wants_a_node(folder: Path) -> None:
    with pytest.raises(StoreError, match="holds no spikemesh node"):
        Store.open(folder, create=False)
    assert not folder.exists()
    Store.open(folder).close()
    Store.open(folder, create=False).close()


def test_a_folder_that_cannot_be_one(folder: Path) -> None:
    folder.write_bytes(b"a file")
    with pytest.raises(StoreError, match=str(folder)):
        Store.open(folder)


def test_whole_files_are_replaced_with_their_mode(folder: Path) -> None:
    folder.mkdir()
    path = folder / "identity.key"
    write_file_atomic(path, b"old", mode=0o600)
    write_file_atomic(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(folder.iterdir()) == [path]


def test_a_whole_file_that_cannot_be_written(folder: Path) -> None:
    with pytest.raises(StoreError, match=r"writing .*status\.json"):
        write_file_atomic(folder / "status.json", b"new")
    folder.mkdir()
    (folder / "status.json").mkdir()
    with pytest.raises(StoreError):
        write_file_atomic(folder / "status.json", b"new")
    assert [path.name for path in folder.iterdir()] == ["status.json"]
