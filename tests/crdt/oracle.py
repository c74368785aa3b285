"""What must come out, worked out again from the bare records in plain Python, without the room's own code."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from spikemesh.crdt import Contribution, Record, Retraction
from tests.crdt.strategies import Universe


def kept_ids(records: Iterable[Record]) -> set[bytes]:
    """Of everything signed under one number the two smallest ids stay."""
    numbers: dict[tuple[bytes, int], set[bytes]] = defaultdict(set)
    for record in records:
        numbers[record.body.author, record.body.seq].add(record.id)
    return {tag for tags in numbers.values() for tag in sorted(tags)[:2]}


def visible(records: Iterable[Record], retractors: frozenset[bytes]) -> dict[bytes, Contribution]:
    """Contributions that are not equivocated and that nobody entitled to it has retracted."""
    numbers: dict[tuple[bytes, int], dict[bytes, Record]] = defaultdict(dict)
    for record in records:
        numbers[record.body.author, record.body.seq][record.id] = record
    sole = [next(iter(group.values())) for group in numbers.values() if len(group) == 1]
    retractions = [record.body for record in sole if isinstance(record.body, Retraction)]
    return {
        record.id: record.body
        for record in sole
        if isinstance(record.body, Contribution)
        and not any(
            record.id in r.targets and (r.author == record.body.author or r.author in retractors) for r in retractions
        )
    }


def total(universe: Universe, records: Iterable[Record]) -> list[int]:
    """The sum over the visible contributions of `records`, coordinate by coordinate."""
    vector = [0] * universe.num_coordinates
    for body in visible(records, universe.retractors).values():
        for index, quantum in universe.values[body.delta_hash].items():
            vector[index] += body.weight * quantum
    return vector
