"""Blobs: immutable bytes by their BLAKE3 hash, one file each, `blobs/ab/abcd...` (64 hex digits)."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from spikemesh.errors import BlobMissing, StoreCorrupt
from spikemesh.files.rim import os_errors
from spikemesh.files.whole import discard, make_folder, remove_unfinished, sync, write_unfinished
from spikemesh.store.writer import BlobWriter, unfinished_blob

HASH_BYTES = 32


class BlobStore:
    """The blobs of one node folder. Any thread may call any method.

    A blob that `has` reports is durable. Two threads may write at once; names change under one lock.
    """

    def __init__(self, folder: Path, corrupt_folder: Path) -> None:
        """Open `folder`, which this process must hold alone: leftovers of a crash are removed."""
        self._folder, self._corrupt_folder = folder, corrupt_folder
        self._lock = threading.Lock()
        self._total_bytes = 0
        with os_errors("opening", folder):
            make_folder(folder)
            remove_unfinished(folder)
            self._shards = {path.name for path in folder.iterdir() if _is_hex(path.name, 2) and path.is_dir()}
            self._unsynced = self._shards.copy()  # a killed process may not have lived to sync there
            for shard in self._shards:
                remove_unfinished(folder / shard)
                self._total_bytes += sum(entry.stat().st_size for entry in _blob_entries(folder / shard))
            sync(folder)

    @property
    def total_bytes(self) -> int:
        """Bytes of all blobs held."""
        return self._total_bytes

    def put(self, data: bytes) -> bytes:
        """Keep `data`, durable on return; returns its hash. `StoreFull` changes nothing."""
        digest: bytes = blake3(data).digest()
        self._write(digest, data)
        return digest

    def put_verified(self, digest: bytes, data: bytes) -> None:
        """Keep `data` that must have the hash `digest`; `ValueError` if it has not."""
        if blake3(data).digest() != digest:
            raise ValueError(f"{len(data)} bytes do not have the hash {digest.hex()}")
        self._write(digest, data)

    @contextlib.contextmanager
    def writing(self, num_bytes: int) -> Iterator[BlobWriter]:
        """Write a blob of so many bytes piece by piece: durable when the block ends, and its `digest` is known then.

        Nothing is kept if the block raises, or if the process dies in it.
        """
        with unfinished_blob(self._folder / "blob", num_bytes) as (writer, unfinished):
            yield writer
            digest = writer.hashed()
        path = self._path(digest)
        try:
            with os_errors("writing", path), self._lock:
                self._make_shard(path.parent)
                self._publish(unfinished, path, num_bytes)
        except BaseException:
            discard(unfinished)
            raise
        writer.digest = digest

    def get(self, digest: bytes) -> bytes:
        """The blob, checked against its hash. `BlobMissing` if it is not held.

        `StoreCorrupt` if the bytes on disk are others: the file is moved to `corrupt/`, so the blob is missing from
        now on and can be put again.
        """
        path = self._path(digest)
        with _reading(path, digest):
            data = path.read_bytes()
        return data if blake3(data).digest() == digest else self._read_again(digest)

    def has(self, digest: bytes) -> bool:
        path = self._path(digest)
        with os_errors("looking at", path), self._lock:
            return self._length(path) is not None

    def size(self, digest: bytes) -> int:
        """Bytes of the blob; `BlobMissing` if it is not held."""
        path = self._path(digest)
        with _reading(path, digest):
            return path.stat().st_size

    def read_range(self, digest: bytes, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer at the end. Not checked: who has all parts checks the hash."""
        if offset < 0 or length < 0:
            raise ValueError(f"offset and length must not be negative: {offset}, {length}")
        path = self._path(digest)
        with _reading(path, digest), path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def delete(self, digest: bytes) -> None:
        """Forget the blob, if held. The caller knows that no record still needs it."""
        path = self._path(digest)
        with os_errors("deleting", path), self._lock, contextlib.suppress(FileNotFoundError):
            num_bytes = path.stat().st_size
            path.unlink()
            self._total_bytes -= num_bytes

    def hashes(self) -> Iterator[bytes]:
        """The hash of every blob held when its folder is reached, in ascending order."""
        for shard in sorted(self._shards.copy()):
            with os_errors("listing", self._folder / shard):
                names = sorted(entry.name for entry in _blob_entries(self._folder / shard))
            yield from map(bytes.fromhex, names)

    def _path(self, digest: bytes) -> Path:
        if len(digest) != HASH_BYTES:
            raise ValueError(f"a hash has {HASH_BYTES} bytes, not {len(digest)}")
        name = digest.hex()
        return self._folder / name[:2] / name

    def _write(self, digest: bytes, data: bytes) -> None:
        path = self._path(digest)
        with os_errors("writing", path):
            with self._lock:
                if self._length(path) == len(data):  # another length is damage, written anew; see `get` for the rest
                    return
                self._make_shard(path.parent)
            unfinished = write_unfinished(path, data)
            with self._lock:
                self._publish(unfinished, path, len(data))

    def _length(self, path: Path) -> int | None:
        """Bytes of a blob whose name is durable; None if it is not held."""
        try:
            num_bytes = path.stat().st_size
        except FileNotFoundError:
            return None
        self._sync_shard(path.parent)
        return num_bytes

    def _sync_shard(self, shard: Path) -> None:
        if shard.name in self._unsynced:
            sync(shard)
            self._unsynced.discard(shard.name)

    def _make_shard(self, shard: Path) -> None:
        if shard.name not in self._shards:
            with contextlib.suppress(FileExistsError):
                shard.mkdir()
            sync(self._folder)
            self._shards.add(shard.name)

    def _publish(self, unfinished: Path, path: Path, num_bytes: int) -> None:
        """Give the synced file its name."""
        try:
            replaced_bytes = path.stat().st_size if path.exists() else 0  # by another thread, or damaged
            unfinished.replace(path)
        except OSError:
            discard(unfinished)
            raise
        self._total_bytes += num_bytes - replaced_bytes
        self._unsynced.add(path.parent.name)
        self._sync_shard(path.parent)

    def _read_again(self, digest: bytes) -> bytes:
        """Under the lock, since another thread may have put the blob anew: the good bytes, or set the file aside."""
        path = self._path(digest)
        with self._lock, _reading(path, digest):
            data = path.read_bytes()
            if blake3(data).digest() == digest:
                return data
            make_folder(self._corrupt_folder)
            path.replace(self._corrupt_folder / path.name)
            self._total_bytes -= len(data)
        raise StoreCorrupt(
            f"The blob {digest.hex()} is damaged; it was moved to {self._corrupt_folder}. Fetch it from a peer again."
        )


@contextlib.contextmanager
def _reading(path: Path, digest: bytes) -> Iterator[None]:
    with os_errors("reading", path):
        try:
            yield
        except FileNotFoundError as error:
            raise BlobMissing(f"The blob {digest.hex()} is not held here. Ask a peer for it.") from error


def _blob_entries(shard: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(shard) as entries:
        for entry in entries:
            if _is_hex(entry.name, 2 * HASH_BYTES) and entry.is_file(follow_symlinks=False):
                yield entry


def _is_hex(name: str, num_digits: int) -> bool:
    return len(name) == num_digits and not set(name) - set("0123456789abcdef")
