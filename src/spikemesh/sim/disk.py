"""A node's store in memory. It outlives the node, as a disk does: what was written is there after a crash."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from blake3 import blake3

from spikemesh.errors import BlobMissing
from spikemesh.store import RecordRow, SavedSum


class MemoryBlobs:
    def __init__(self) -> None:
        self._blobs: dict[bytes, bytes] = {}

    @property
    def total_bytes(self) -> int:
        return sum(map(len, self._blobs.values()))

    def put_verified(self, digest: bytes, data: bytes) -> None:
        if blake3(data).digest() != digest:
            raise ValueError(f"{len(data)} bytes do not have the hash {digest.hex()}")
        self._blobs[digest] = data

    def get(self, digest: bytes) -> bytes:
        if digest not in self._blobs:
            raise BlobMissing(f"The blob {digest.hex()} is not held here. Ask a peer for it.")
        return self._blobs[digest]

    def has(self, digest: bytes) -> bool:
        return digest in self._blobs

    def size(self, digest: bytes) -> int:
        return len(self.get(digest))

    def read_range(self, digest: bytes, offset: int, length: int) -> bytes:
        return self.get(digest)[offset : offset + length]

    def hashes(self) -> Iterator[bytes]:
        return iter(sorted(self._blobs))

    def delete(self, digest: bytes) -> None:
        self._blobs.pop(digest, None)


class MemoryStore:
    def __init__(self) -> None:
        self.blobs, self.pieces = MemoryBlobs(), MemoryBlobs()
        self._values: dict[str, bytes] = {}
        self._rows: dict[bytes, RecordRow] = {}
        self._chunks: dict[int, bytes] = {}
        self._saved: SavedSum | None = None

    def add_records(self, rows: Iterable[RecordRow]) -> None:
        for row in rows:
            self._rows.setdefault(row.id, row)

    def records(self) -> Iterator[RecordRow]:
        return iter([*self._rows.values()])

    def load_sum(self) -> SavedSum | None:
        return self._saved

    def save_sum(
        self,
        dirty_chunks: Mapping[int, bytes | memoryview],
        folded_ids: Iterable[bytes],
        digest: bytes,
        *,
        records: Iterable[RecordRow] = (),
    ) -> None:
        self.add_records(records)
        self._chunks.update({number: bytes(data) for number, data in dirty_chunks.items()})
        chunks = tuple(data for _, data in sorted(self._chunks.items()))
        self._saved = SavedSum(chunks=chunks, folded_ids=frozenset(folded_ids), digest=digest)

    def get_value(self, key: str) -> bytes | None:
        return self._values.get(key)

    def set_value(self, key: str, value: bytes) -> None:
        self._values[key] = value
