"""The store against a model of plain dictionaries, through restarts and damage."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from blake3 import blake3
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.store.samples import contents, row, saved_sum, sum_digest

from spikemesh.errors import BlobMissing, StoreCorrupt
from spikemesh.store import RecordRow, Store

blobs = st.binary(max_size=40)
numbers = st.integers(0, 30)
chunk_bytes = st.binary(min_size=8, max_size=24)


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.place = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
        self.folder = Path(self.place.name) / "node"
        self.store = Store.open(self.folder)
        self.blobs: dict[bytes, bytes] = {}
        self.records: dict[bytes, RecordRow] = {}
        self.chunks: dict[int, bytes] = {}
        self.folded: set[int] | None = None
        self.seq: bytes | None = None

    @rule(data=blobs)
    def put(self, data: bytes) -> None:
        digest = self.store.blobs.put(data)
        assert digest == blake3(data).digest()
        self.blobs[digest] = data

    @rule(data=blobs)
    def put_verified(self, data: bytes) -> None:
        digest = blake3(data).digest()
        self.store.blobs.put_verified(digest, data)
        self.blobs[digest] = data

    @rule(data=blobs)
    def delete(self, data: bytes) -> None:
        self.store.blobs.delete(blake3(data).digest())
        self.blobs.pop(blake3(data).digest(), None)

    @rule(data=blobs, offset=st.integers(0, 50), length=st.integers(0, 50))
    def read(self, data: bytes, offset: int, length: int) -> None:
        digest = blake3(data).digest()
        assert self.store.blobs.has(digest) == (digest in self.blobs)
        with contextlib.nullcontext() if digest in self.blobs else pytest.raises(BlobMissing):
            assert self.store.blobs.read_range(digest, offset, length) == data[offset : offset + length]
            assert self.store.blobs.size(digest) == len(data)

    @precondition(lambda self: any(self.blobs.values()))
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(key for key, blob in self.blobs.items() if blob)))
        path = self.folder / "blobs" / digest.hex()[:2] / digest.hex()
        damaged = bytearray(path.read_bytes())
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(damaged)
        with pytest.raises(StoreCorrupt):
            self.store.blobs.get(digest)
        del self.blobs[digest]

    @rule(new=st.lists(numbers))
    def add_records(self, new: list[int]) -> None:
        self.store.add_records(map(row, new))
        self._add(new)

    def _add(self, new: list[int]) -> None:
        for r in map(row, new):
            self.records.setdefault(r.id, r)

    @rule(dirty=st.dictionaries(st.integers(0, 5), chunk_bytes), folded=st.sets(numbers), new=st.lists(numbers))
    def save_sum(self, dirty: dict[int, bytes], folded: set[int], new: list[int]) -> None:
        """Also what must be refused, and then change nothing."""
        chunks = self.chunks | dirty
        without_gaps = sorted(chunks) == list(range(len(chunks)))
        recorded = {row(number).id for number in folded} <= self.records.keys() | {row(number).id for number in new}
        allowed = without_gaps and recorded
        with contextlib.nullcontext() if allowed else pytest.raises(ValueError):
            self.store.save_sum(dirty, [row(n).id for n in folded], sum_digest(chunks), records=map(row, new))
        if allowed:
            self._add(new)
            self.chunks, self.folded = chunks, folded

    @rule(value=st.binary(max_size=20))
    def set_value(self, value: bytes) -> None:
        self.store.set_value("seq", value)
        self.seq = value

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = Store.open(self.folder, create=False)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert contents(self.store) == {
            "records": list(self.records.values()),
            "sum": None if self.folded is None else saved_sum(self.chunks, map(row, self.folded)),
            "seq": self.seq,
            "blobs": self.blobs,
            "blob_bytes": sum(map(len, self.blobs.values())),
            "status": None,
        }

    def teardown(self) -> None:
        self.store.close()
        self.place.cleanup()


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True, database=None)
