"""Any order, repetition and grouping of the same files gives the same bytes, for every rule, type and option.

Where a merge is refused, because the result overflows, it is refused in every order.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypothesis import event, given
from hypothesis import strategies as st

from spikemesh.checkpoint import MergeReport
from spikemesh.errors import CheckpointError
from tests.checkpoint.conftest import place
from tests.checkpoint.files import torch_tensors, write_shards, write_torch
from tests.checkpoint.strategies import Bench, Case, cases, leaf_weights, trees

REFUSALS = ("is beyond the range of", "are the same checkpoint, with the weights")
"""Why a merge of these cases may be refused: it is then refused in every order, too."""


def outcome(work: Callable[[], MergeReport]) -> bytes:
    """The bytes of the merged file, or why there is none."""
    try:
        return work().out.read_bytes()
    except CheckpointError as error:
        return next(refusal for refusal in REFUSALS if refusal in str(error)).encode()


@given(cases(), st.data())
def test_any_order(case: Case, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(case.inputs))))
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
        whole = outcome(bench.merge_all)
        extra = [
            (copy, data.draw(st.sampled_from(range(len(case.inputs)))))
            for copy in data.draw(st.lists(st.sampled_from(sorted(COPIES)), min_size=1, max_size=3))
        ]
        paths = [*bench.inputs, *(COPIES[copy](bench, number) for copy, number in extra)]
        weights = None if case.weights is None else [*case.weights, *(case.weights[number] for _, number in extra)]
        order = data.draw(st.permutations(range(len(paths))))
        shuffled = None if weights is None else [weights[i] for i in order]
        assert outcome(lambda: bench.merge([paths[i] for i in order], shuffled)) == whole


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
    weights = leaf_weights(tree)
    with place() as folder:
        bench = Bench(folder, case)
        paths = [bench.inputs[i] for i in weights]
        whole = outcome(lambda: bench.merge(paths, list(weights.values()) if weighted else None))
        grouped = outcome(lambda: bench.merge_tree(tree, weighted))
        event("grouped" if grouped == whole else grouped.decode())
        assert grouped == whole
