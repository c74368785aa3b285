"""A replica: the records a node knows and the integer sum that follows from them. `join` is its whole merge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from spikemesh.crdt.integer_sum import MAX_CONTRIBUTIONS, Addend, IntegerSum
from spikemesh.crdt.orset import RecordSet
from spikemesh.crdt.records import Contribution, Record

Deltas = Callable[[Contribution], Addend]
"""Where the delta of a contribution is read from; it must be the one whose bytes hash to `delta_hash`."""


@dataclass(frozen=True)
class Replica:
    """`sum` is always exactly the weighted sum of the visible contributions of `records`."""

    records: RecordSet
    sum: IntegerSum

    @classmethod
    def empty(cls, num_coordinates: int, retractors: frozenset[bytes] = frozenset()) -> Replica:
        return cls(RecordSet(retractors), IntegerSum.zero(num_coordinates))

    @classmethod
    def restore(
        cls,
        records: RecordSet,
        saved: IntegerSum,
        counted: frozenset[bytes],
        deltas: Deltas,
        known: Iterable[Record] = (),
    ) -> Replica:
        """The replica of `records`, from an earlier sum that stands for the contributions with the ids `counted`.

        `known` is every record that was ever inserted: one that the sum counts may have left the set since, when two
        others with smaller ids came to prove that its number is equivocated.
        """
        everything = chain(records, known)
        before = {r.id: r.body for r in everything if r.id in counted and isinstance(r.body, Contribution)}
        if len(before) != len(counted):
            raise ValueError(f"the sum counts {len(counted) - len(before)} contributions that are not in the records")
        return cls(records, saved.fold(_terms(before, records.visible, deltas)))

    def insert(self, records: Iterable[Record], deltas: Deltas) -> Replica:
        """A new replica that also knows `records`."""
        return self.grown(self.records.insert(records), deltas)

    def join(self, other: Replica, deltas: Deltas) -> Replica:
        """Least upper bound of both. Returns a new value; neither operand changes.

        It starts from the sum that is nearer to the result, so adopting a peer's snapshot folds only what the
        snapshot lacks, however many contributions it stands for. The sum is exact: both starts give the same bits.
        """
        if self.sum.num_coordinates != other.sum.num_coordinates:
            raise ValueError(
                "both replicas must belong to one run: one sum is over "
                f"{self.sum.num_coordinates} coordinates, the other over {other.sum.num_coordinates}"
            )
        records = self.records.join(other.records)
        nearer = min((self, other), key=lambda side: _distance(side.records.visible, records.visible))
        return nearer.grown(records, deltas)

    def grown(self, records: RecordSet, deltas: Deltas) -> Replica:
        """The replica of `records`, a set that holds this one's, from this one's sum and the deltas that it lacks."""
        if records is self.records:
            return self
        if len(records.visible) > MAX_CONTRIBUTIONS:
            raise ValueError(f"the sum is proven for {MAX_CONTRIBUTIONS} contributions and would hold more")
        return Replica(records, self.sum.fold(_terms(self.records.visible, records.visible, deltas)))


def _terms(
    before: Mapping[bytes, Contribution], after: Mapping[bytes, Contribution], deltas: Deltas
) -> Iterator[tuple[Addend, int]]:
    """What leads from the sum over `before` to the sum over `after`: arrivals added, removals taken back."""
    for tag in after.keys() - before.keys():
        yield deltas(after[tag]), after[tag].weight
    for tag in before.keys() - after.keys():
        yield deltas(before[tag]), -before[tag].weight


def _distance(before: Mapping[bytes, Contribution], after: Mapping[bytes, Contribution]) -> int:
    return len(before.keys() ^ after.keys())
