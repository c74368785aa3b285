"""A node's replica with its durable copy.

Order of writes: blobs, then the records that name them, then the replica in memory, which is what peers are told
about. The sum is saved every few folds, in one transaction with the ids it stands for; after a crash the blobs
folded since are folded again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from spikemesh.codec import decode_delta, decode_record
from spikemesh.crdt import Contribution, Delta, Genesis, IntegerSum, Record, RecordSet, Replica
from spikemesh.errors import BlobMissing, InvalidData, StoreCorrupt
from spikemesh.node.holdings import Holdings
from spikemesh.store import RecordRow

log = logging.getLogger("spikemesh.node")

SAVE_EVERY = 16
"""Inserts between two saves of the sum: what a restart after a crash folds again at most."""

HISTORY = 256
"""So many (set digest -> sum digest) pairs this node can vouch for."""


class Ledger:
    """Owns the store. Not for concurrent use: the node inserts under one lock."""

    def __init__(
        self, store: Holdings, genesis: Genesis, run_id: bytes, theta0: npt.NDArray[np.float32], replica: Replica
    ) -> None:
        self.genesis, self.run_id, self.theta0 = genesis, run_id, theta0
        self.store, self.replica = store, replica
        self._saved_chunks: tuple[object, ...] = (None,) * len(replica.sum.chunks)
        self._unsaved = 0
        self._last_stored: dict[bytes, int] = {}
        self._history: OrderedDict[bytes, bytes] = OrderedDict()
        self._remember()

    @classmethod
    def open(cls, store: Holdings, genesis: Genesis, run_id: bytes, theta0: npt.NDArray[np.float32]) -> Ledger:
        """Read back what the store holds: the saved sum, and every record with its fold brought up to date.

        A record that the saved sum does not count and whose blob is gone or damaged is left out: gossip brings both
        again, as it does for a record that never came.
        """
        empty = RecordSet(frozenset((genesis.founder,)))
        ledger = cls(store, genesis, run_id, theta0, Replica(empty, IntegerSum.zero(genesis.num_coordinates)))
        saved = store.load_sum()
        counted = frozenset[bytes]() if saved is None else saved.folded_ids
        total = ledger.replica.sum
        if saved is not None:
            total = IntegerSum.from_bytes(genesis.num_coordinates, saved.chunks)
            ledger._saved_chunks = total.chunks
        stored = list(ledger._stored())
        held = [record for record in stored if record.id in counted or ledger._has_delta(record)]
        ledger.replica = Replica.restore(empty.insert(held), total, counted, ledger.delta, known=stored)
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

    def delta(self, contribution: Contribution) -> Delta:
        """The delta of a contribution, from its blob. `BlobMissing` if this node does not hold it."""
        blob = self.store.blobs.get(contribution.delta_hash)
        return decode_delta(blob, num_coordinates=self.num_coordinates).to_delta()

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
        decode_delta(blob, num_coordinates=self.num_coordinates)

    def insert(self, records: Sequence[Record], blobs: Mapping[bytes, bytes]) -> None:
        """Make `records` and the checked `blobs` (by hash) durable, then part of the replica.

        `BlobMissing`, and no record kept, if a delta that must be folded or taken back is not here after all.
        """
        for digest, blob in blobs.items():
            self.store.blobs.put_verified(digest, blob)
        replica = self.replica.insert(records, self.delta)
        self.store.add_records(_row(record) for record in records)
        self.replica = replica
        self._remember()
        self._unsaved += 1
        if self._unsaved >= SAVE_EVERY:
            self.save()

    def adopt(self, snapshot: Replica) -> None:
        """Join a peer's replica whose digests have been checked. Durable on return.

        From the snapshot's sum: the deltas of what came here meanwhile are here, those that the snapshot stands for are
        not. `BlobMissing`, and nothing changed, if what came retracts some of these.
        """
        joined = snapshot.grown(self.replica.records.join(snapshot.records), self.delta)
        self._save_sum(joined, [_row(record) for record in joined.records])
        self.replica = joined
        self._remember()

    def save(self) -> None:
        """Make the sum durable with the ids it stands for, so that a restart has nothing to fold again."""
        self._save_sum(self.replica, [])

    def _save_sum(self, replica: Replica, rows: list[RecordRow]) -> None:
        chunks = replica.sum.chunks
        dirty = {i: c.to_bytes() for i, c in enumerate(chunks) if c is not self._saved_chunks[i]}
        self.store.save_sum(dirty, frozenset(replica.records.visible), replica.sum.digest, records=rows)
        self._saved_chunks, self._unsaved = chunks, 0

    def vouch(self, set_digest: bytes) -> bytes | None:
        """The sum digest that belonged to this set of records here, if this node passed through it lately."""
        return self._history.get(set_digest)

    def _remember(self) -> None:
        self._history[self.replica.records.digest] = self.replica.sum.digest
        while len(self._history) > HISTORY:
            self._history.popitem(last=False)


def _row(record: Record) -> RecordRow:
    return RecordRow(id=record.id, author=record.author, seq=record.seq, wire=record.wire)
