"""A node's replica with its durable copy.

Order of writes: blobs, then the records that name them, then the replica in memory, which is what peers are told
about. The sum is saved every few folds, in one transaction with the ids it stands for; after a crash the blobs
folded since are folded again.

Retention (docs/decisions/012): a delta whose contribution the *saved* sum already stands for, or leaves out, is needed
only by others. The newest `window_bytes` of deltas, by arrival, are kept for them; what is older goes once a peer was
seen to hold the same sum over it, and at the latest when twice the window is full.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from spikemesh.codec import PackedDelta, decode_record, max_delta_bytes, read_delta
from spikemesh.crdt import Contribution, Genesis, IntegerSum, Record, RecordSet, Replica
from spikemesh.errors import BlobMissing, InvalidData, StoreCorrupt
from spikemesh.node.holdings import Holdings
from spikemesh.store import RecordRow

log = logging.getLogger("spikemesh.node")

SAVE_EVERY = 16
"""Inserts between two saves of the sum: what a restart after a crash folds again at most."""

HISTORY = 256
"""So many (set digest -> sum digest) pairs this node can vouch for."""

WINDOW_BYTES = 4 << 30
"""Of deltas that are kept for others, unless a volunteer says another number."""

WINDOW_DELTAS = 16
"""The window has room for so many of the run's largest deltas, whatever the volunteer says."""


class Ledger:
    """Owns the store. Not for concurrent use: the node inserts under one lock."""

    def __init__(
        self,
        store: Holdings,
        genesis: Genesis,
        run_id: bytes,
        theta0: npt.NDArray[np.float32],
        replica: Replica,
        window_bytes: int,
    ) -> None:
        self.genesis, self.run_id, self.theta0 = genesis, run_id, theta0
        self.store, self.replica = store, replica
        self._saved_chunks: tuple[object, ...] = (None,) * len(replica.sum.chunks)
        self._unsaved = 0
        self._last_stored: dict[bytes, int] = {}
        self._history: OrderedDict[bytes, tuple[bytes, int]] = OrderedDict()
        self.window_bytes = max(window_bytes, WINDOW_DELTAS * max_delta_bytes(genesis.num_coordinates))
        self._arrivals: dict[bytes, tuple[int, int]] = {}  # delta hash -> (number of arrival, bytes), oldest first
        self._num_arrived = self._num_confirmed = self._delta_bytes = 0
        self.num_collected = 0
        self._remember()

    @classmethod
    def open(
        cls,
        store: Holdings,
        genesis: Genesis,
        run_id: bytes,
        theta0: npt.NDArray[np.float32],
        window_bytes: int = WINDOW_BYTES,
    ) -> Ledger:
        """Read back what the store holds: the saved sum, and every record with its fold brought up to date.

        A record that counts, that the saved sum does not count and whose blob is gone or damaged is left out: gossip
        brings both again, as it does for a record that never came.
        """
        empty = RecordSet(frozenset((genesis.founder,)))
        zero = Replica(empty, IntegerSum.zero(genesis.num_coordinates))
        ledger = cls(store, genesis, run_id, theta0, zero, window_bytes)
        saved = store.load_sum()
        counted = frozenset[bytes]() if saved is None else saved.folded_ids
        total = ledger.replica.sum
        if saved is not None:
            total = IntegerSum.from_bytes(genesis.num_coordinates, saved.chunks)
            ledger._saved_chunks = total.chunks
        stored = list(ledger._stored())
        unfolded = empty.insert(stored).visible.keys() - counted
        held = [record for record in stored if record.id not in unfolded or ledger._has_delta(record)]
        ledger.replica = Replica.restore(empty.insert(held), total, counted, ledger.delta, known=stored)
        ledger._find_arrivals(stored)
        ledger._remember()
        return ledger

    def _stored(self) -> Iterator[Record]:
        for row in self.store.records():
            self._last_stored[row.author] = max(row.seq, self._last_stored.get(row.author, 0))
            yield decode_record(row.wire, run_id=self.run_id)

    def _has_delta(self, record: Record) -> bool:
        if not isinstance(record.body, Contribution):
            return True
        try:
            self.store.blobs.get(record.body.delta_hash)
        except (BlobMissing, StoreCorrupt) as error:
            log.warning("left out a record until its delta comes again: %s", error)
            return False
        return True

    def next_seq(self, author: bytes) -> int:
        """The number that an author's next record may have: above all that were ever on this disk, in use or not."""
        return 1 + max(self.replica.records.last(author), self._last_stored.get(author, 0))

    @property
    def num_coordinates(self) -> int:
        return self.genesis.num_coordinates

    def resolve(self, replica: Replica) -> npt.NDArray[np.float32]:
        """The weights that a replica of this run stands for, float32 [A]."""
        return replica.sum.resolve(self.theta0, self.genesis.grid_exponent)

    def delta(self, contribution: Contribution) -> PackedDelta:
        """The delta of a contribution, from its blob. `BlobMissing` if this node does not hold it."""
        blob = self.store.blobs.get(contribution.delta_hash)
        return read_delta(blob, num_coordinates=self.num_coordinates)

    def needed(self, records: Iterable[Record]) -> list[Contribution]:
        """The contributions whose blobs must be here before `records` can be inserted, and are not."""
        before, after = self.replica.records.visible, self.replica.records.insert(records).visible
        changed = {**before, **after}
        return [
            changed[tag]
            for tag in sorted(before.keys() ^ after.keys())  # in the same order on every run
            if not self.store.blobs.has(changed[tag].delta_hash)
        ]

    def check_blob(self, contribution: Contribution, blob: bytes) -> None:
        """Raise `InvalidData` unless this is the contribution's delta and fits the run."""
        if len(blob) != contribution.delta_bytes or blake3(blob).digest() != contribution.delta_hash:
            raise InvalidData(
                f"a delta of {len(blob)} bytes is not the one that its record names ({contribution.delta_bytes} bytes)"
            )
        read_delta(blob, num_coordinates=self.num_coordinates)

    def insert(self, records: Sequence[Record], blobs: Mapping[bytes, bytes]) -> None:
        """Make `records` and the checked `blobs` (by hash) durable, then part of the replica.

        `BlobMissing`, and no record kept, if a delta that must be folded or taken back is not here after all.
        """
        for digest, blob in blobs.items():
            self.store.blobs.put_verified(digest, blob)
            self._arrived(digest, len(blob))
        replica = self.replica.insert(records, self.delta)
        self.store.add_records(_row(record) for record in records)
        self.replica = replica
        self._remember()
        self._unsaved += 1
        if self._unsaved >= SAVE_EVERY or self._delta_bytes > 2 * self.window_bytes:
            self.save()

    def adopt(self, snapshot: Replica) -> None:
        """Join a peer's replica whose digests have been checked. Durable on return.

        From the snapshot's sum: the deltas of what came here meanwhile are here, those that the snapshot stands for are
        not. From the own sum if not even that is so, as what came is older than the window. `BlobMissing`, and nothing
        changed, if neither can be completed.
        """
        records = self.replica.records.join(snapshot.records)
        if records is self.replica.records:
            return
        try:
            joined = snapshot.grown(records, self.delta)
        except BlobMissing:
            joined = self.replica.grown(records, self.delta)
        self._save_sum(joined, [_row(record) for record in joined.records])
        self.replica = joined
        self._remember()
        self._collect()

    def save(self) -> None:
        """Make the sum durable with the ids it stands for, so that a restart has nothing to fold again."""
        self._save_sum(self.replica, [])
        self._collect()

    def _save_sum(self, replica: Replica, rows: list[RecordRow]) -> None:
        chunks = replica.sum.chunks
        dirty = {i: c.data for i, c in enumerate(chunks) if c is not self._saved_chunks[i]}
        self.store.save_sum(dirty, frozenset(replica.records.visible), replica.sum.digest, records=rows)
        self._saved_chunks, self._unsaved = chunks, 0

    def vouch(self, set_digest: bytes) -> bytes | None:
        """The sum digest that belonged to this set of records here, if this node passed through it lately."""
        known = self._history.get(set_digest)
        return None if known is None else known[0]

    def confirm(self, set_digest: bytes) -> None:
        """A peer holds the same sum for this set: what had arrived by then needs no delta any more to be checked."""
        known = self._history.get(set_digest)
        if known is not None:
            self._num_confirmed = max(self._num_confirmed, known[1])

    def _remember(self) -> None:
        self._history[self.replica.records.digest] = self.replica.sum.digest, self._num_arrived
        while len(self._history) > HISTORY:
            self._history.popitem(last=False)

    # --- retention

    def _find_arrivals(self, stored: Iterable[Record]) -> None:
        """The order in which the deltas that are here arrived; a blob that no record names is a crash's leftover."""
        held = set(self.store.blobs.hashes())
        for record in stored:
            if isinstance(record.body, Contribution) and record.body.delta_hash in held:
                self._arrived(record.body.delta_hash, record.body.delta_bytes)
        for digest in held - self._arrivals.keys() - {self.genesis.init_hash}:
            self.store.blobs.delete(digest)

    def _arrived(self, digest: bytes, num_bytes: int) -> None:
        _, replaced_bytes = self._arrivals.pop(digest, (0, 0))
        self._num_arrived += 1
        self._delta_bytes += num_bytes - replaced_bytes
        self._arrivals[digest] = self._num_arrived, num_bytes

    def _collect(self) -> None:
        """Delete what retention does not keep. Only right after a save: then neither folding nor taking back what the
        saved state says needs a delta, so a crash anywhere in here leaves a state that opens as it is."""
        full = self._delta_bytes > 2 * self.window_bytes
        younger_bytes, old = 0, []
        for digest, (number, num_bytes) in reversed(self._arrivals.items()):
            younger_bytes += num_bytes
            if younger_bytes > self.window_bytes and (full or number <= self._num_confirmed):
                old.append((digest, num_bytes))
        for digest, num_bytes in reversed(old):
            self.store.blobs.delete(digest)
            del self._arrivals[digest]
            self._delta_bytes -= num_bytes
            self.num_collected += 1


def _row(record: Record) -> RecordRow:
    return RecordRow(id=record.id, author=record.author, seq=record.seq, wire=record.wire)
