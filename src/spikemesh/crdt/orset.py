"""The OR-Set of contributions: records only ever arrive; which of them count follows from the records alone.

Shapiro et al., "A comprehensive study of convergent and commutative replicated data types" (2011), OR-Set. An
add is a contribution, its tag is the record's id; a remove is a retraction that names the ids it has observed.

Visible = a contribution that
  * is not equivocated: its author signed no second record for the same sequence number, and
  * is not named by a retraction, itself not equivocated, of its own author or of one of the run's retractors.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from blake3 import blake3

from spikemesh.crdt.context import CausalContext
from spikemesh.crdt.records import Contribution, PastEntry, Record, Retraction

Log = Mapping[int, tuple[Record, ...]]
"""One author's records by sequence number. Two under one number, sorted by id, prove an equivocation."""

ID_DIGITS = 64
PART_DIGEST_BYTES = 16

PROOF = 2
"""Of the records signed for one number the two with the smallest ids are kept: enough to prove it, a bound on what an
equivocator can make us hold, and, being the smallest two of a union, the same two for everybody."""


@dataclass(frozen=True, eq=False)
class RecordSet:
    """A grow-only set of records and what follows from it. `retractors` may retract anybody's contributions."""

    retractors: frozenset[bytes] = frozenset()
    logs: Mapping[bytes, Log] = field(default_factory=dict)

    def insert(self, records: Iterable[Record]) -> RecordSet:
        """A new set that also holds `records`; those it held already change nothing."""
        logs: dict[bytes, Log] = dict(self.logs)
        changed: dict[bytes, dict[int, tuple[Record, ...]]] = {}
        for record in records:
            log = changed.get(record.author, logs.get(record.author, {}))
            held = log.get(record.seq, ())
            kept = _kept(held, record)
            if kept is not held:
                if record.author not in changed:
                    changed[record.author] = dict(log)
                changed[record.author][record.seq] = kept
        if not changed:
            return self
        logs.update(changed)
        result = RecordSet(self.retractors, logs)
        result.log_digests.update({a: d for a, d in self.log_digests.items() if a not in changed})
        return result

    def join(self, other: RecordSet) -> RecordSet:
        """The union. Returns a new value; neither operand changes."""
        if self.retractors != other.retractors:
            raise ValueError("both record sets must belong to one run: their retractors differ")
        return self.insert(other)

    def __iter__(self) -> Iterator[Record]:
        for author in sorted(self.logs):
            for seq in sorted(self.logs[author]):
                yield from self.logs[author][seq]

    def __len__(self) -> int:
        return sum(len(held) for log in self.logs.values() for held in log.values())

    def __contains__(self, record: Record) -> bool:
        return any(held.id == record.id for held in self.logs.get(record.author, {}).get(record.seq, ()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RecordSet):
            return NotImplemented
        return self.retractors == other.retractors and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __le__(self, other: RecordSet) -> bool:
        return self.join(other) == other

    @cached_property
    def context(self) -> CausalContext:
        return CausalContext.from_entries(PastEntry(author, 0, tuple(log)) for author, log in self.logs.items())

    @cached_property
    def equivocations(self) -> tuple[tuple[Record, ...], ...]:
        """Groups of records that one author signed for one sequence number. Each group proves itself."""
        return tuple(held for log in self.logs.values() for held in log.values() if len(held) > 1)

    @cached_property
    def visible(self) -> Mapping[bytes, Contribution]:
        """The contributions that count, by id."""
        contributions: dict[bytes, Contribution] = {}
        retractions: list[Retraction] = []
        for log in self.logs.values():
            for held in log.values():
                if len(held) > 1:
                    continue
                body = held[0].body
                if isinstance(body, Contribution):
                    contributions[held[0].id] = body
                else:
                    retractions.append(body)
        for retraction in retractions:
            for target in retraction.targets:
                body_or_none = contributions.get(target)
                if body_or_none is not None and self._may_retract(retraction.author, body_or_none):
                    del contributions[target]
        return contributions

    def _may_retract(self, author: bytes, contribution: Contribution) -> bool:
        return author == contribution.author or author in self.retractors

    @cached_property
    def log_digests(self) -> dict[bytes, bytes]:
        """Per author, the hash of its records' ids in sequence order. Filled as it is asked for."""
        return {}

    def log_digest(self, author: bytes) -> bytes:
        digest = self.log_digests.get(author)
        if digest is None:
            log = self.logs[author]
            ids = b"".join(record.id for seq in sorted(log) for record in log[seq])
            digest = self.log_digests[author] = blake3(ids).digest()
        return digest

    def last(self, author: bytes) -> int:
        """The largest sequence number of this author's records, 0 if there are none."""
        return max(self.logs.get(author, {}), default=0)

    def coverage(self, author: bytes) -> PastEntry:
        """Which sequence numbers of this author, who must have some, are here."""
        (entry,) = CausalContext.from_entries([PastEntry(author, 0, tuple(self.logs[author]))]).entries()
        return entry

    def authors(self, prefix: str = "") -> list[bytes]:
        """In byte order, those whose ids begin with these hex digits."""
        start, stop = (bisect_left(self._authors, bound) for bound in _bounds(prefix))
        return self._authors[start:stop]

    def part_digest(self, prefix: str) -> bytes:
        """16 bytes that are equal for equal records of the authors whose ids begin with these hex digits.

        Whoever makes two parts with one digest, about 2**64 hashes of work, hides a difference from one comparison.
        """
        digest = self._part_digests.get(prefix)
        if digest is None:
            digest = self._part_digests[prefix] = self._hash(self.authors(prefix))[:PART_DIGEST_BYTES]
        return digest

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that are equal for equal sets of records."""
        return self._hash(self._authors)

    @cached_property
    def _authors(self) -> list[bytes]:
        return sorted(self.logs)

    @cached_property
    def _part_digests(self) -> dict[str, bytes]:
        return {}

    def _hash(self, authors: list[bytes]) -> bytes:
        return blake3(b"".join(author + self.log_digest(author) for author in authors)).digest()


def _bounds(prefix: str) -> tuple[bytes, bytes]:
    """The lowest id that begins with these hex digits, and one above all of them."""
    first = bytes.fromhex(prefix.ljust(ID_DIGITS, "0"))
    return first, bytes.fromhex(prefix.ljust(ID_DIGITS, "f")) + b"\0"


def _kept(held: tuple[Record, ...], record: Record) -> tuple[Record, ...]:
    """`held` itself if the record adds nothing, else what is now kept under its number."""
    if any(other.id == record.id for other in held):
        return held
    kept = tuple(sorted((*held, record), key=lambda r: r.id))[:PROOF]
    return held if record not in kept else kept
