"""Causal context: which sequence numbers of which authors have been seen (a version vector with gaps).

Preguiça et al., "Dotted version vectors" (2010); Almeida, Shoker, Baquero, "Delta state replicated data types" (2018).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from spikemesh.crdt.records import PastEntry


@dataclass(frozen=True)
class CausalContext:
    """A set of (author, seq) pairs, stored per author as a prefix 1..n and the numbers beyond it."""

    _seen: Mapping[bytes, tuple[int, frozenset[int]]] = field(default_factory=dict)

    @classmethod
    def from_entries(cls, entries: Iterable[PastEntry]) -> CausalContext:
        seen: dict[bytes, tuple[int, frozenset[int]]] = {}
        for entry in entries:
            prefix, extras = seen.get(entry.author, (0, frozenset()))
            union = _compact(max(prefix, entry.prefix), extras | frozenset(entry.extras))
            if union != (0, frozenset()):
                seen[entry.author] = union
        return cls(seen)

    def entries(self) -> tuple[PastEntry, ...]:
        """The canonical listing: authors in byte order, extras ascending."""
        return tuple(
            PastEntry(author, prefix, tuple(sorted(extras)))
            for author, (prefix, extras) in sorted(self._seen.items())
            if prefix or extras
        )

    def prefix(self, author: bytes) -> int:
        """The largest n such that 1..n of this author have all been seen."""
        return self._seen.get(author, (0, frozenset()))[0]

    def last(self, author: bytes) -> int:
        """The largest sequence number seen of this author, 0 if none."""
        prefix, extras = self._seen.get(author, (0, frozenset()))
        return max(extras, default=prefix)

    def authors(self) -> frozenset[bytes]:
        return frozenset(self._seen)

    def __contains__(self, dot: tuple[bytes, int]) -> bool:
        author, seq = dot
        prefix, extras = self._seen.get(author, (0, frozenset()))
        return 0 < seq <= prefix or seq in extras

    def add(self, author: bytes, seq: int) -> CausalContext:
        return self.join(CausalContext({author: _compact(0, frozenset((seq,)))}))

    def join(self, other: CausalContext) -> CausalContext:
        """The union. Returns a new value; neither operand changes."""
        seen = dict(self._seen)
        for author, (prefix, extras) in other._seen.items():
            mine = seen.get(author)
            seen[author] = (prefix, extras) if mine is None else _compact(max(prefix, mine[0]), extras | mine[1])
        return CausalContext(seen)

    def __le__(self, other: CausalContext) -> bool:
        return self.join(other) == other


def _compact(prefix: int, extras: frozenset[int]) -> tuple[int, frozenset[int]]:
    """Move extras that continue the prefix into it, so that equal sets are equal values."""
    while prefix + 1 in extras:
        prefix += 1
    return prefix, frozenset(seq for seq in extras if seq > prefix)
