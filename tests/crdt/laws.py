"""The laws of a join, as functions of a case: three states of one universe and the join under test.

Every evaluation gets fresh deep copies of its operands, and what is compared is the complete state written out from
its primary data: a join that changes an operand, or a digest that was cached too early, cannot make two sides equal.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from spikemesh.crdt import CausalContext, IntegerSum, Record, RecordSet, Replica
from tests.crdt import oracle
from tests.crdt.strategies import Case, Universe


def dump(state: Any) -> bytes:
    """The complete state, canonically: no cached digest is read, every int64 of every chunk is."""
    return msgspec.msgpack.encode(_plain(state))


def _plain(state: Any) -> Any:
    match state:
        case CausalContext():
            return [[author, prefix, sorted(extras)] for author, (prefix, extras) in sorted(state._seen.items())]
        case RecordSet():
            logs = [
                [author, [[seq, [_plain(record) for record in held]] for seq, held in sorted(log.items())]]
                for author, log in sorted(state.logs.items())
            ]
            return [sorted(state.retractors), logs]
        case Record():
            return [state.id, msgspec.msgpack.encode(state.body), state.wire]
        case IntegerSum():
            return [state.num_coordinates, [chunk.values.astype("<i8").tobytes() for chunk in state.chunks]]
        case Replica():
            return [_plain(state.records), _plain(state.sum)]
        case _:
            raise TypeError(f"{type(state).__name__} is a state type without a canonical listing in the law suite")


def fresh(state: Any) -> Any:
    """A copy that shares nothing with `state`, and none of what it has cached."""
    match state:
        case RecordSet():
            return RecordSet(state.retractors, copy.deepcopy(dict(state.logs)))
        case IntegerSum():
            return IntegerSum.from_bytes(state.num_coordinates, [chunk.to_bytes() for chunk in state.chunks])
        case Replica():
            return Replica(fresh(state.records), fresh(state.sum))
        case _:
            return copy.deepcopy(state)


def joined(case: Case, a: Any, b: Any) -> Any:
    """The join of fresh copies."""
    return case.join(case.universe, fresh(a), fresh(b))


def same(a: Any, b: Any) -> bool:
    """Equal values, to the last bit. The type's own `==` must say the same."""
    bits = dump(a) == dump(b)
    assert (a == b) is bits, "equality of the type and of its bits disagree"
    return bits


def commutativity(case: Case) -> None:
    a, b, _ = case.states
    assert same(joined(case, a, b), joined(case, b, a)), "a ∨ b is not b ∨ a"


def associativity(case: Case) -> None:
    a, b, c = case.states
    left, right = joined(case, joined(case, a, b), c), joined(case, a, joined(case, b, c))
    assert same(left, right), "(a ∨ b) ∨ c is not a ∨ (b ∨ c)"


def idempotency(case: Case) -> None:
    a, b, _ = case.states
    assert same(joined(case, a, a), a), "a ∨ a is not a"
    once = joined(case, a, b)
    assert same(joined(case, once, b), once), "the same state joined twice counts twice"


def monotonicity(case: Case) -> None:
    """Both operands are below the join, in the order that the join defines and in the order of what is known."""
    a, b, _ = case.states
    top = joined(case, a, b)
    for operand in (a, b):
        assert same(joined(case, operand, top), top), "an operand is not below the join"
        assert knowledge(operand) <= knowledge(top), "the join has forgotten something"
        if type(operand).__le__ is not object.__le__:
            assert operand <= top, "<= does not agree with the join"


def neutrality(case: Case) -> None:
    a, _, _ = case.states
    assert same(joined(case, a, case.neutral), a), "a ∨ nothing is not a"
    assert same(joined(case, case.neutral, a), a), "nothing ∨ a is not a"


def purity(case: Case) -> None:
    a, b = fresh(case.states[0]), fresh(case.states[1])
    before = dump(a), dump(b)
    result = case.join(case.universe, a, b)
    assert (dump(a), dump(b)) == before, "the join changed an operand"
    after = dump(result)
    case.join(case.universe, result, fresh(case.states[2]))
    assert (dump(a), dump(b), dump(result)) == (*before, after), "joining a result changed it or what it came from"


def honesty(case: Case) -> None:
    """Digests and everything derived are those of the same data built anew: nothing was cached too early."""
    a, b, c = case.states
    for operand in (a, b, c):
        derived(operand)  # fills what it caches, which a join may carry over to its result
    once = case.join(case.universe, a, b)
    for state in (a, b, once, case.join(case.universe, once, c)):
        assert derived(state) == derived(fresh(state)), "a derived value does not follow from the data"


def correctness(case: Case) -> None:
    """The join stands for the union of what both sides know, recomputed from the bare records."""
    a, b, _ = case.states
    assert_stands_for(case.universe, joined(case, a, b), a, b)


LAWS: Mapping[str, Callable[[Case], None]] = {
    law.__name__: law
    for law in (
        commutativity,
        associativity,
        idempotency,
        monotonicity,
        neutrality,
        purity,
        honesty,
        correctness,
    )
}


def knowledge(state: Any) -> set[Any]:
    """What a state can never lose: numbers seen, and which of them are proven to be equivocated."""
    match state:
        case CausalContext():
            return {
                (author, seq)
                for author, (prefix, extras) in state._seen.items()
                for seq in {*range(1, prefix + 1), *extras}
            }
        case RecordSet():
            return {
                (author, seq, count)
                for author, log in state.logs.items()
                for seq, held in log.items()
                for count in range(1, len(held) + 1)
            }
        case Replica():
            return knowledge(state.records)
        case _:
            raise TypeError(f"{type(state).__name__} is a state type of which the law suite knows no order")


def derived(state: Any) -> Any:
    match state:
        case RecordSet():
            return (
                state.digest,
                state.context,
                dict(state.visible),
                sorted(r.id for g in state.equivocations for r in g),
            )
        case Replica():
            return derived(state.records), state.sum.digest, [chunk.digest for chunk in state.sum.chunks]
        case _:
            return state


def assert_stands_for(universe: Universe, state: Any, *parts: Any) -> None:
    """`state` is exactly what follows from the union of the records (or numbers) of `parts`."""
    if isinstance(state, CausalContext):
        assert knowledge(state) == set().union(*(knowledge(part) for part in parts)), "wrong set of numbers"
        return
    sets = [part.records if isinstance(part, Replica) else part for part in parts]
    known = [record for part in sets for record in part]
    records = state.records if isinstance(state, Replica) else state
    assert {record.id for record in records} == oracle.kept_ids(known), "wrong set of records"
    assert dict(records.visible) == oracle.visible(known, universe.retractors), "the wrong contributions count"
    if isinstance(state, Replica):
        assert_sum(universe, state)


def assert_sum(universe: Universe, replica: Replica) -> None:
    """The sum is the one that plain integers give for the visible records, from nothing."""
    values = [value for chunk in replica.sum.chunks for value in chunk.values.tolist()]
    assert values == oracle.total(universe, replica.records), "the sum does not follow from the records"
