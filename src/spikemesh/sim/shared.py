"""Record sets that are equal are one object, which a thousand nodes that hold the same set share.

Only memory and time: a record set is a value, so whoever computes it, it is the same. Sums are each node's own, and
signatures, deltas and digests of every message are checked by every node.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from spikemesh.crdt import Record, RecordSet, Replica

MAX_HELD = 1024


@dataclass(frozen=True, eq=False)
class Pool:
    """The last record sets, by digest and by what they came from."""

    _sets: OrderedDict[bytes | tuple[bytes, tuple[bytes, ...]], SharedSet] = field(default_factory=OrderedDict)

    def share(self, replica: Replica) -> Replica:
        return Replica(self.one(replica.records), replica.sum)

    def one(self, records: RecordSet) -> SharedSet:
        """The set that is equal to `records`."""
        held = self._sets.get(records.digest)
        if held is None:
            held = SharedSet(records.retractors, records.logs, self)
            held.log_digests.update(records.log_digests)
            self._keep(records.digest, held)
        return held

    def inserted(self, before: SharedSet, records: list[Record]) -> SharedSet:
        key = before.digest, tuple(record.id for record in records)
        held = self._sets.get(key)
        if held is None:
            after = RecordSet.insert(before, records)
            held = before if after is before else self.one(after)
            self._keep(key, held)
        return held

    def _keep(self, key: bytes | tuple[bytes, tuple[bytes, ...]], held: SharedSet) -> None:
        self._sets[key] = held
        while len(self._sets) > MAX_HELD:
            self._sets.popitem(last=False)


@dataclass(frozen=True, eq=False)
class SharedSet(RecordSet):
    pool: Pool = field(default_factory=Pool)

    def insert(self, records: Iterable[Record]) -> RecordSet:
        return self.pool.inserted(self, list(records))
