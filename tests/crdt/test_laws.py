"""Every state type obeys every law, and a wrong join of any kind is caught."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, seed, settings
from hypothesis import strategies as st

from spikemesh import crdt
from spikemesh.crdt import (
    STATE_TYPES,
    CausalContext,
    Contribution,
    IntegerSum,
    RecordSet,
    Replica,
    Retraction,
)
from tests.crdt import laws, oracle
from tests.crdt.strategies import AUTHORS, CASES, MISSING, Case, Universe, universes

Join = Callable[[Universe, Any, Any], Any]


def test_every_state_type_has_a_strategy() -> None:
    """Also catches a type that has a `join` and was left out of the registry."""
    exported = (getattr(crdt, name) for name in crdt.__all__)
    joinable = {item for item in exported if isinstance(item, type) and hasattr(item, "join")}
    assert joinable == set(STATE_TYPES), "every type with a join belongs into crdt.STATE_TYPES, and nothing else does"
    missing = set(STATE_TYPES) - set(CASES)
    assert not missing, f"no law is checked for {missing}: give it a strategy in tests/crdt/strategies.py"


@pytest.mark.parametrize("law", laws.LAWS.values(), ids=laws.LAWS.keys())
@pytest.mark.parametrize("kind", STATE_TYPES, ids=lambda kind: kind.__name__)
def test_law(kind: type, law: Callable[[Case], None]) -> None:
    @settings(max_examples=100)
    @given(CASES[kind])
    def check(case: Case) -> None:
        law(case)

    check()


# The situations that the laws must have been tried in. A strategy that no longer reaches one proves less than it says.


def _numbers(universe: Universe) -> Counter[tuple[bytes, int]]:
    return Counter((record.author, record.seq) for record in universe.records)


def _retractions(universe: Universe) -> list[tuple[Retraction, Contribution]]:
    bodies = {r.id: r.body for r in universe.records if isinstance(r.body, Contribution)}
    sole = [r.body for r in universe.records if _numbers(universe)[r.author, r.seq] == 1]
    return [
        (body, bodies[target])
        for body in sole
        if isinstance(body, Retraction)
        for target in body.targets
        if target in bodies and _numbers(universe)[bodies[target].author, bodies[target].seq] == 1
    ]


SITUATIONS: dict[str, Callable[[Universe], bool]] = {
    "two records under one number": lambda u: 2 in _numbers(u).values(),
    "three records under one number": lambda u: max(_numbers(u).values(), default=0) >= 3,
    "retracted by its author": lambda u: any(r.author == c.author for r, c in _retractions(u)),
    "retracted by a retractor": lambda u: any(
        r.author != c.author and r.author in u.retractors for r, c in _retractions(u)
    ),
    "retracted by a stranger": lambda u: any(
        r.author != c.author and r.author not in u.retractors for r, c in _retractions(u)
    ),
    "equivocated retraction": lambda u: any(
        isinstance(r.body, Retraction) and _numbers(u)[r.author, r.seq] > 1 for r in u.records
    ),
    "a target that nobody has": lambda u: any(
        isinstance(r.body, Retraction) and MISSING in r.body.targets for r in u.records
    ),
    "a gap in the numbers": lambda u: any((a, 1) not in _numbers(u) for a, _ in _numbers(u)),
    "numbers out of order": lambda u: any(
        x.author == y.author and x.seq > y.seq for x, y in zip(u.records, u.records[1:], strict=False)
    ),
    "several contributions on one coordinate": lambda u: (
        max(
            Counter(
                i for b in oracle.visible(u.records, u.retractors).values() for i in u.values[b.delta_hash]
            ).values(),
            default=0,
        )
        >= 3
    ),
    "a delta across a chunk boundary": lambda u: any(
        min(v, default=0) < crdt.CHUNK_COORDINATES <= max(v, default=0) for v in u.values.values()
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS.keys())
def test_strategy_reaches(situation: Callable[[Universe], bool]) -> None:
    find(universes(), situation, settings=settings(SELF_TEST, max_examples=2_000, phases=[Phase.generate]))


# The suite tested: joins with one flaw each. For each of them some law must fail, and the named one does.


def keeps_self(_: Universe, a: Any, b: Any) -> Any:
    return a


def overwrites(_: Universe, a: Any, b: Any) -> Any:
    return b


def keeps_the_greater(_: Universe, a: Any, b: Any) -> Any:
    """Commutative, associative and idempotent, and loses everything the other one knew."""
    return max(a, b, key=laws.dump)


def ignores_extras(_: Universe, a: CausalContext, b: CausalContext) -> CausalContext:
    prefixes = {author: (max(a.prefix(author), b.prefix(author)), frozenset()) for author in a.authors() | b.authors()}
    return CausalContext(prefixes)


def overwrites_logs(_: Universe, a: RecordSet, b: RecordSet) -> RecordSet:
    return RecordSet(a.retractors, {**a.logs, **b.logs})


def drops_proof(_: Universe, a: RecordSet, b: RecordSet) -> RecordSet:
    """One record per number, the one with the smaller id: everybody agrees, and an equivocator counts."""
    logs = {author: {seq: held[:1] for seq, held in log.items()} for author, log in a.join(b).logs.items()}
    return RecordSet(a.retractors, logs)


def changes_logs(_: Universe, a: RecordSet, b: RecordSet) -> RecordSet:
    for author, log in b.logs.items():
        a.logs.setdefault(author, {}).update(log)  # type: ignore[attr-defined]
    return a


def keeps_stale_digests(_: Universe, a: RecordSet, b: RecordSet) -> RecordSet:
    result = RecordSet(a.retractors, a.join(b).logs)
    result.log_digests.update({author: a.log_digest(author) for author in a.logs})
    return result


def ignores_retractions(universe: Universe, a: Replica, b: Replica) -> Replica:
    """The set is right, and what is retracted stays in the sum."""
    records = a.records.join(b.records)
    arrived = [c for tag, c in b.records.visible.items() if tag not in a.records.visible]
    return Replica(records, a.sum.fold((universe.delta(c), c.weight) for c in arrived))


def drops_retractions(universe: Universe, a: Replica, b: Replica) -> Replica:
    kept = (r for r in a.records.join(b.records) if isinstance(r.body, Contribution))
    return universe.replica(kept)


def counts_twice(universe: Universe, a: Replica, b: Replica) -> Replica:
    records = a.records.join(b.records)
    return Replica(records, a.sum.fold((universe.delta(c), c.weight) for c in b.records.visible.values()))


def adds_sums(_: Universe, a: Replica, b: Replica) -> Replica:
    chunks = [(x.values + y.values).tobytes() for x, y in zip(a.sum.chunks, b.sum.chunks, strict=True)]
    return Replica(a.records.join(b.records), IntegerSum.from_bytes(a.sum.num_coordinates, chunks))


def adds_in_float(universe: Universe, a: Replica, b: Replica) -> Replica:
    """What a float32 accumulator does: each addition rounds, so the order shows in the bits."""
    records = a.records.join(b.records)
    total = np.concatenate([chunk.values for chunk in a.sum.chunks]).astype(np.float32)
    before, after = a.records.visible, records.visible
    for sign, tags in ((1, after.keys() - before.keys()), (-1, before.keys() - after.keys())):
        for tag in sorted(tags):
            body = before[tag] if sign < 0 else after[tag]
            delta = universe.delta(body)
            total[delta.indices] += delta.quanta.astype(np.float32) * np.float32(sign * body.weight)
    whole, size = total.astype(np.int64), crdt.CHUNK_COORDINATES
    chunks = [whole[start : start + size].tobytes() for start in range(0, len(whole), size)]
    return Replica(records, IntegerSum.from_bytes(len(whole), chunks))


def changes_its_operand(universe: Universe, a: Replica, b: Replica) -> Replica:
    """The right result, written into the chunks of the left operand."""
    result = a.join(b, universe.delta)
    for mine, new in zip(a.sum.chunks, result.sum.chunks, strict=True):
        object.__setattr__(mine, "values", new.values)  # those of a sum that was read back cannot be written to
    return result


def returns_itself_changed(universe: Universe, a: Replica, b: Replica) -> Replica:
    """The right result, as the changed left operand: its commutativity example would compare a thing with itself."""
    result = a.join(b, universe.delta)
    object.__setattr__(a, "records", result.records)
    object.__setattr__(a, "sum", result.sum)
    return a


def forgets_the_set(universe: Universe, a: Replica, b: Replica) -> Replica:
    return Replica(a.records, a.join(b, universe.delta).sum)


WRONG: list[tuple[type, Join, str]] = [
    *((kind, keeps_self, "commutativity") for kind in STATE_TYPES),
    *((kind, keeps_self, "correctness") for kind in STATE_TYPES),
    *((kind, overwrites, "commutativity") for kind in STATE_TYPES),
    *((kind, overwrites, "neutrality") for kind in STATE_TYPES),
    *((kind, keeps_the_greater, "monotonicity") for kind in STATE_TYPES),
    (CausalContext, ignores_extras, "idempotency"),
    (RecordSet, overwrites_logs, "commutativity"),
    (RecordSet, drops_proof, "monotonicity"),
    (RecordSet, drops_proof, "correctness"),
    (RecordSet, changes_logs, "purity"),
    (RecordSet, keeps_stale_digests, "honesty"),
    (Replica, ignores_retractions, "monotonicity"),
    (Replica, ignores_retractions, "correctness"),
    (Replica, drops_retractions, "idempotency"),
    (Replica, counts_twice, "idempotency"),
    (Replica, adds_sums, "idempotency"),
    (Replica, adds_in_float, "associativity"),
    (Replica, adds_in_float, "correctness"),
    (Replica, changes_its_operand, "purity"),
    (Replica, returns_itself_changed, "purity"),
    (Replica, forgets_the_set, "monotonicity"),
]

NUM_SEEDS = 10
"""Which cases a seed makes depends on what else is loaded, so a flaw has several in which to show."""

SELF_TEST = settings(
    database=None,
    deadline=None,
    max_examples=400,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize(("kind", "wrong", "law"), WRONG, ids=lambda part: getattr(part, "__name__", part))
def test_wrong_join_is_caught(kind: type, wrong: Join, law: str) -> None:
    @settings(SELF_TEST)
    @given(CASES[kind])
    def check(case: Case) -> None:
        laws.LAWS[law](dataclasses.replace(case, join=wrong))

    with pytest.raises(AssertionError):
        for number in range(NUM_SEEDS):
            seed(number)(check)()


def test_wrong_joins_cover_every_law() -> None:
    assert {law for _, _, law in WRONG} == set(laws.LAWS)


@given(st.data())
def test_oracle_agrees_with_the_record_set(data: st.DataObject) -> None:
    universe = data.draw(universes())
    held = universe.record_set(universe.records)
    assert dict(held.visible) == oracle.visible(universe.records, universe.retractors)
    assert held.visible == universe.record_set(reversed(universe.records)).visible
    assert all(author in AUTHORS for author in held.logs)
