"""What a node needs of its store: `spikemesh.store.Store` on a disk, or a simulated one in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from spikemesh.store import RecordRow, SavedSum


class Blobs(Protocol):
    """Blobs by hash, as `spikemesh.store.BlobStore` has them."""

    @property
    def total_bytes(self) -> int: ...
    def put_verified(self, digest: bytes, data: bytes) -> None: ...
    def get(self, digest: bytes) -> bytes: ...
    def has(self, digest: bytes) -> bool: ...
    def size(self, digest: bytes) -> int: ...
    def read_range(self, digest: bytes, offset: int, length: int) -> bytes: ...


class Holdings(Protocol):
    """Blobs, records and the saved sum, as `spikemesh.store.Store` has them; durable when a call returns."""

    @property
    def blobs(self) -> Blobs: ...
    def add_records(self, rows: Iterable[RecordRow]) -> None: ...
    def records(self) -> Iterator[RecordRow]: ...
    def load_sum(self) -> SavedSum | None: ...
    def save_sum(
        self,
        dirty_chunks: Mapping[int, bytes],
        folded_ids: Iterable[bytes],
        digest: bytes,
        *,
        records: Iterable[RecordRow] = (),
    ) -> None: ...
