"""Any order, repetition and grouping of the same files gives the same bytes, for every rule, type and option.

Where a merge is refused, because the result overflows, it is refused in every order.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, event, find, given, settings
from hypothesis import strategies as st

from spikemesh.checkpoint import RULES, MergeReport
from spikemesh.checkpoint.recipe import DTYPES
from spikemesh.errors import CheckpointError
from spikemesh.kernels import ELEMENTS, Element, Rule, combine
from tests.checkpoint import reference
from tests.checkpoint.conftest import place
from tests.checkpoint.files import torch_tensors, write_shards, write_torch
from tests.checkpoint.strategies import Bench, Case, cases, leaf_weights, trees
from tests.checkpoint.test_values import check_values

REFUSALS = ("is beyond the range of",)
"""Why a merge of these cases may be refused: it is then refused in every order, too."""


def outcome(work: Callable[[], MergeReport]) -> bytes:
    """The bytes of the merged file, or why there is none."""
    try:
        return work().out.read_bytes()
    except CheckpointError as error:
        return next(refusal for refusal in REFUSALS if refusal in str(error)).encode()


@given(cases(), st.data())
def test_any_order(case: Case, data: st.DataObject) -> None:
    check_order(case, data.draw(st.permutations(range(len(case.inputs)))))


def check_order(case: Case, order: Sequence[int]) -> None:
    weights = None if case.weights is None else [case.weights[i] for i in order]
    with place() as folder:
        bench = Bench(folder, case)
        whole = outcome(bench.merge_all)
        assert outcome(lambda: bench.merge([bench.inputs[i] for i in order], weights)) == whole
        assert outcome(lambda: bench.merge_all(num_threads=1)) == whole


@given(cases(max_inputs=3), st.data())
def test_any_repetition(case: Case, data: st.DataObject) -> None:
    """Also of copies under another name, and of the same tensors as a PyTorch file and as shards."""
    with place() as folder:
        bench = Bench(folder, case)
        whole = outcome(lambda: bench.merge(bench.inputs))
        extra = [
            (copy, data.draw(st.sampled_from(range(len(case.inputs)))))
            for copy in data.draw(st.lists(st.sampled_from(sorted(COPIES)), min_size=1, max_size=3))
        ]
        paths = [*bench.inputs, *(COPIES[copy](bench, number) for copy, number in extra)]
        order = data.draw(st.permutations(range(len(paths))))
        assert outcome(lambda: bench.merge([paths[i] for i in order])) == whole


COPIES: dict[str, Callable[[Bench, int], Path]] = {
    "the same": lambda bench, i: bench.inputs[i],
    "other name": lambda bench, i: bench.write(dict(reversed(bench.case.inputs[i].items()))),
    "pytorch": lambda bench, i: write_torch(bench.new_path(".pt"), torch_tensors(bench.case.inputs[i])),
    "shards": lambda bench, i: write_shards(bench.new_path(""), bench.case.inputs[i]),
}


@given(cases(min_inputs=3, huge=False), st.data())
def test_any_grouping(case: Case, data: st.DataObject) -> None:
    """A tree of merges, with weights at its branches, is the merge of its leaves."""
    weighted = case.rule != "max-magnitude"
    order = data.draw(st.permutations(range(len(case.inputs))))
    tree = data.draw(trees(order, weighted=weighted))
    are_distinct = all(dict(x) != dict(y) for x, y in itertools.combinations(case.inputs, 2))
    by_leaves = are_distinct and data.draw(st.booleans())
    weights = leaf_weights(tree, rule=case.rule, by_leaves=by_leaves)
    with place() as folder:
        bench = Bench(folder, case)
        paths = [bench.inputs[i] for i in weights]
        whole = outcome(lambda: bench.merge(paths, list(weights.values()) if weighted else None))
        grouped = outcome(lambda: bench.merge_tree(tree, weighted, by_leaves=by_leaves))
        event("grouped" if grouped == whole else grouped.decode())
        assert grouped == whole


# The situations that the laws must have been tried in. A strategy that no longer reaches one proves less than it says.


def num_holders(case: Case) -> dict[str, int]:
    return {name: sum(name in tensors for tensors in case.inputs) for tensors in case.inputs for name in tensors}


def cancels(case: Case) -> bool:
    """Two inputs, opposite numbers."""
    for name in (name for tensors in case.inputs for name in tensors):
        raws = [tensors[name] for tensors in case.inputs if name in tensors]
        if len(raws) == 2 and raws[0].element in reference.FORMATS:
            columns = zip(*(reference.decode(raw.element, raw.data) for raw in raws), strict=True)
            if any(a == -b != 0 for a, b in columns):
                return True
    return False


SITUATIONS: dict[str, Callable[[Case], bool]] = {
    **{f"rule {rule}": lambda case, rule=rule: case.rule == rule for rule in RULES},
    **{
        f"type {name}": lambda case, name=name: any(
            raw.element == name and raw.data for tensors in case.inputs for raw in tensors.values()
        )
        for name in ELEMENTS
    },
    **{f"result {dtype}": lambda case, dtype=dtype: case.dtype == dtype for dtype in ("keep", *DTYPES)},
    "weights": lambda case: case.weights is not None and len(set(case.weights)) > 1,
    "a base, a mask and weights": lambda case: None not in (case.base, case.mask, case.weights),
    "a base that lacks a tensor": lambda case: (
        case.base is not None and bool(num_holders(case).keys() - case.base.keys())
    ),
    "a base with more tensors": lambda case: (
        case.base is not None and bool(case.base.keys() - num_holders(case).keys())
    ),
    "a tensor of one input alone": lambda case: len(case.inputs) > 2 and 1 in num_holders(case).values(),
    "an input without tensors": lambda case: not all(case.inputs),
    "a scalar": lambda case: any(raw.shape == () for tensors in case.inputs for raw in tensors.values()),
    "an empty tensor": lambda case: any(0 in raw.shape for tensors in case.inputs for raw in tensors.values()),
    "numbers that cancel": cancels,
}


def test_the_strategy_reaches_every_situation() -> None:
    missing = dict(SITUATIONS)

    def is_the_last(case: Case) -> bool:
        for name in [name for name, holds in missing.items() if holds(case)]:
            del missing[name]
        return not missing

    find(cases(), is_the_last, settings=settings(max_examples=2_000, phases=[Phase.generate]))
    assert not missing


# The laws tested: merges with one flaw each, which they have to see.


def keeps_the_first(rule: Rule, inputs: Any, *, weights: Any, **rest: Any) -> Any:
    counts = combine(rule, inputs[:1], weights=weights[:1], **rest)
    return dataclasses.replace(counts, first_bad=(-1,) * len(inputs))


def adds_one_by_one(rule: Rule, inputs: Any, *, weights: Any, element: Element, out: Any, **rest: Any) -> Any:
    """The mean so far with the next one, rounded each time."""
    so_far = inputs[0]
    for number, following in enumerate(inputs[1:], 1):
        result, so_far = so_far, np.empty_like(so_far)
        pair = [result, following]
        combine(Rule.MEAN, pair, weights=[number, 1], element=element, out=so_far, out_element=element)
    return combine(rule, [so_far], weights=[1], element=element, out=out, **rest)


def flattens_small_numbers(rule: Rule, inputs: Any, *, element: Element, **rest: Any) -> Any:
    """What a processor does that is told to be fast."""
    form = reference.FORMATS[element.name]
    flat = []
    for data in inputs:
        bits = data.view(f"<u{element.size_bytes}")
        size = bits & ((1 << 8 * element.size_bytes - 1) - 1)
        flat.append(np.where(size < 1 << form.mantissa, 0, bits).astype(bits.dtype).view(np.uint8))
    return combine(rule, flat, element=element, **rest)


def drops(name: str, **instead: Any) -> Callable[..., Any]:
    def flawed(rule: Rule, inputs: Any, **arguments: Any) -> Any:
        return combine(rule, inputs, **arguments | {name: instead.get("value", [1] * len(inputs))})

    flawed.__name__ = f"forgets_{name}"
    return flawed


def counts_zeros(rule: Rule, inputs: Any, **arguments: Any) -> Any:
    return combine(Rule.MEAN if rule == Rule.ACTIVE_MEAN else rule, inputs, **arguments)


def check_reverse_order(case: Case) -> None:
    check_order(case, range(len(case.inputs))[::-1])


FLAWS = [
    (keeps_the_first, check_reverse_order),
    (adds_one_by_one, check_reverse_order),
    (keeps_the_first, check_values),
    (flattens_small_numbers, check_values),
    (drops("weights"), check_values),
    (drops("divisor", value=1), check_values),
    (drops("base", value=None), check_values),
    (drops("mask", value=None), check_values),
    (counts_zeros, check_values),
]


MATTERS: dict[str, Callable[[Case], bool]] = {
    "forgets_weights": lambda case: case.weights is not None,
    "forgets_divisor": lambda case: case.rule == "sum" and case.weights is not None,
    "forgets_base": lambda case: bool(case.base),
    "forgets_mask": lambda case: bool(case.mask),
}
"""The cases in which a flaw could show."""


@pytest.mark.parametrize(("flawed", "check"), FLAWS, ids=lambda part: part.__name__)
def test_a_flawed_merge_is_caught(
    flawed: Callable[..., Any], check: Callable[[Case], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spikemesh.checkpoint.engine.combine", flawed)

    # What a flaw forgets has to be there: else it would take luck to meet it, which depends on what ran before.
    matters = MATTERS.get(flawed.__name__, lambda case: True)
    chosen = cases().filter(matters)

    @settings(max_examples=800, phases=[Phase.generate], suppress_health_check=[HealthCheck.filter_too_much])
    @given(chosen)
    def law(case: Case) -> None:
        check(case)

    with pytest.raises((AssertionError, BaseExceptionGroup)):
        law()
