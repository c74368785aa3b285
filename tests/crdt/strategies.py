"""Small universes of records, and for each state type of the room a strategy of three states of one run.

A universe holds everything its authors ever signed: contributions and retractions, several records under one number,
sequence numbers with gaps, targets nobody has. A state is what some node knows of it: any subset, in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from blake3 import blake3
from hypothesis import strategies as st

from spikemesh.crdt import (
    CHUNK_COORDINATES,
    QUANTUM_BITS,
    WEIGHT_ONE,
    CausalContext,
    Contribution,
    Delta,
    PastEntry,
    Record,
    RecordSet,
    Replica,
    Retraction,
)

RUN_ID = blake3(b"a run").digest()
MAX_QUANTUM = (1 << QUANTUM_BITS) - 1
MAX_TEST_SEQ = 7


def author_id(number: int) -> bytes:
    return blake3(b"author %d" % number).digest()


AUTHORS = tuple(author_id(number) for number in range(4))
MISSING = blake3(b"a record that nobody ever signed").digest()


def sign(body: Contribution | Retraction, signature: bytes = b"") -> Record:
    """A record of this body. Its wire is unique to it, as a signed encoding is, and means nothing to the merge."""
    tag = blake3(msgspec.msgpack.encode(body)).digest()
    return Record(id=tag, body=body, wire=tag + signature)


def contribution(
    author: bytes, seq: int, weight: int, delta_hash: bytes, *, past: tuple[PastEntry, ...] = (), signature: bytes = b""
) -> Record:
    body = Contribution(
        run_id=RUN_ID,
        author=author,
        seq=seq,
        past=past,
        weight=weight,
        delta_hash=delta_hash,
        delta_bytes=1,
        num_tokens=1,
    )
    return sign(body, signature)


def retraction(author: bytes, seq: int, targets: tuple[bytes, ...], *, signature: bytes = b"") -> Record:
    return sign(Retraction(run_id=RUN_ID, author=author, seq=seq, past=(), targets=targets), signature)


def make_delta(num_coordinates: int, values: Mapping[int, int]) -> Delta:
    indices = sorted(values)
    return Delta(
        num_coordinates,
        np.array(indices, np.int64),
        np.array([values[index] for index in indices], np.int32),
    )


def delta_hash(values: Mapping[int, int]) -> bytes:
    return blake3(repr(sorted(values.items())).encode()).digest()


@dataclass(frozen=True)
class Universe:
    """All that was ever signed in a run, in the order it was signed, and the deltas by hash."""

    num_coordinates: int
    retractors: frozenset[bytes]
    records: tuple[Record, ...]
    values: Mapping[bytes, Mapping[int, int]]

    def delta(self, body: Contribution) -> Delta:
        return make_delta(self.num_coordinates, self.values[body.delta_hash])

    def record_set(self, records: Iterable[Record]) -> RecordSet:
        return RecordSet(self.retractors).insert(records)

    def replica(self, records: Iterable[Record]) -> Replica:
        return Replica.empty(self.num_coordinates, self.retractors).insert(records, self.delta)


@dataclass(frozen=True)
class Case:
    """Three states of one universe, its neutral element, and the join under test."""

    universe: Universe
    states: tuple[Any, Any, Any]
    neutral: Any
    join: Callable[[Universe, Any, Any], Any]


LAYOUTS = st.sampled_from([97, 300, 300, CHUNK_COORDINATES + 64])
QUANTA = st.one_of(st.integers(-MAX_QUANTUM, MAX_QUANTUM), st.sampled_from([-MAX_QUANTUM, -1, 0, 1, MAX_QUANTUM]))
WEIGHTS = st.one_of(st.integers(1, WEIGHT_ONE), st.just(WEIGHT_ONE))
SEQS = st.integers(1, MAX_TEST_SEQ)


def delta_values(num_coordinates: int) -> st.SearchStrategy[dict[int, int]]:
    """Few coordinates, so that contributions meet on them, most at the ends of the layout and of its chunks."""
    last = num_coordinates - 1
    edges = {0, last, min(last, CHUNK_COORDINATES - 1), min(last, CHUNK_COORDINATES)}
    where = st.one_of(st.sampled_from(sorted(edges)), st.sampled_from(sorted(edges)), st.integers(0, last))
    return st.dictionaries(where, QUANTA, min_size=0, max_size=4)


@st.composite
def universes(draw: st.DrawFn, max_records: int = 12, layouts: st.SearchStrategy[int] = LAYOUTS) -> Universe:
    """Numbers collide (an author equivocates) and skip; everybody retracts anything, of strangers too."""
    num_coordinates = draw(layouts)
    retractors = frozenset(draw(st.sampled_from([(), AUTHORS[:1], AUTHORS[:2]])))
    vectors, records = delta_values(num_coordinates), dict[bytes, Record]()
    values: dict[bytes, Mapping[int, int]] = {}
    for _ in range(draw(st.integers(0, max_records))):
        author, seq, signature = draw(st.sampled_from(AUTHORS)), draw(SEQS), draw(st.binary(max_size=2))
        what = draw(st.sampled_from(["add", "add", "add", "take back", "retract"])) if records else "add"
        if what == "add":
            vector = draw(vectors)
            name = delta_hash(vector)
            values[name] = vector
            record = contribution(author, seq, draw(WEIGHTS), name, signature=signature)
        elif what == "take back":
            target = draw(st.sampled_from(list(records.values())))
            record = retraction(target.author, seq, (target.id,), signature=signature)
        else:
            known = st.sampled_from([*records, MISSING])
            record = retraction(author, seq, tuple(draw(st.lists(known, min_size=1, max_size=3))), signature=signature)
        records.setdefault(record.id, record)
    return Universe(num_coordinates, retractors, tuple(records.values()), values)


@st.composite
def knowing(draw: st.DrawFn, universe: Universe, num_nodes: int) -> list[list[Record]]:
    """What each of some nodes knows: every record is known to any of them, and came in forward or backward order."""
    nodes: list[list[Record]] = [[] for _ in range(num_nodes)]
    for record in universe.records:
        who = draw(st.integers(0, 2**num_nodes - 1))
        for number, node in enumerate(nodes):
            if who >> number & 1:
                node.append(record)
    return [node[:: draw(st.sampled_from([1, -1]))] for node in nodes]


@st.composite
def context_cases(draw: st.DrawFn) -> Case:
    dots = st.lists(st.tuples(st.sampled_from(AUTHORS), SEQS), max_size=10)
    states = []
    for _ in range(3):
        context = CausalContext()
        for author, seq in draw(dots):
            context = context.add(author, seq)
        states.append(context)
    return Case(EMPTY, tuple(states), CausalContext(), lambda _, a, b: a.join(b))


@st.composite
def record_set_cases(draw: st.DrawFn) -> Case:
    universe = draw(universes())
    states = tuple(universe.record_set(known) for known in draw(knowing(universe, 3)))
    return Case(universe, states, universe.record_set(()), lambda _, a, b: a.join(b))


@st.composite
def replica_cases(draw: st.DrawFn) -> Case:
    universe = draw(universes())
    states = tuple(universe.replica(known) for known in draw(knowing(universe, 3)))
    return Case(universe, states, universe.replica(()), lambda u, a, b: a.join(b, u.delta))


EMPTY = Universe(1, frozenset(), (), {})

CASES: Mapping[type, st.SearchStrategy[Case]] = {
    CausalContext: context_cases(),
    RecordSet: record_set_cases(),
    Replica: replica_cases(),
}
"""The registry that the law suite walks through, by state type."""
