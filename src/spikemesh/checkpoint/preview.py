"""What a merge would do, in the time that the tables of its inputs take to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Unpack

from spikemesh.checkpoint.companions import Carried
from spikemesh.checkpoint.gather import Gathering
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.merge import Input, PathLike, companions_of, gather
from spikemesh.checkpoint.names import Respelling
from spikemesh.checkpoint.options import Choices, Options
from spikemesh.checkpoint.plan import BASE_NUMBER, MergedTensor, Plan
from spikemesh.checkpoint.rows import MatchedRows
from spikemesh.checkpoint.weights import Weight
from spikemesh.progress import SILENT


@dataclass(frozen=True, kw_only=True)
class PlannedTensor:
    """One tensor of the result."""

    name: str
    element: str
    shape: tuple[int, ...]
    how: str
    """merged, copied, or kept from the base."""
    sources: tuple[str, ...]
    """Paths."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A merge that was not done. Files that look like copies are told by a sample, and may turn out not to be."""

    rule: str
    dtype: str
    weights: Mapping[str, Fraction]
    """By path."""
    copies: Mapping[str, str]
    respelled: Mapping[str, Respelling]
    tensors: Sequence[PlannedTensor]
    skipped: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]
    matched: MatchedRows | None
    """Rows of embeddings and heads that would be matched by their tokens."""
    companions: Carried
    """Configuration, tokenizer and the like: from which one input, and what would be left behind."""
    result_bytes: int


def preview(
    inputs: Sequence[Input],
    *,
    out: PathLike | None = None,
    base: Input | None = None,
    mask_from: Input | None = None,
    weights: Sequence[Weight] | None = None,
    companions_from: PathLike | None = None,
    **choices: Unpack[Choices],
) -> Preview:
    """What `merge` of the same arguments would do, and its refusals as far as tables tell. Nothing is written.

    Without `out` a folder is meant, which takes along what stands beside the weights.
    """
    source = None if companions_from is None else Path(companions_from)
    with ExitStack() as stack:
        gathering = Gathering(stack, KnownFiles(), SILENT, quick=True)
        gathered = gather(gathering, inputs, base, mask_from, weights, Options(**choices))
        plan = gathered.plan
        return Preview(
            rule=gathered.settings.rule,
            dtype=gathered.settings.dtype,
            weights={str(leaf.checkpoint.path): leaf.weight for leaf in gathered.leaves},
            copies={str(copy.path): str(leaf.checkpoint.path) for leaf in gathered.leaves for copy in leaf.copies},
            respelled=plan.respelled,
            tensors=[_planned(tensor, plan) for tensor in plan.tensors],
            skipped=plan.skipped,
            left_out={
                str(table.checkpoint.path): table.checkpoint.left_out
                for table in plan.inputs
                if table.checkpoint.left_out
            },
            matched=plan.matched,
            companions=companions_of(gathered, None if out is None else Path(out), source),
            result_bytes=sum(tensor.result.size_bytes for tensor in plan.tensors),
        )


def _planned(tensor: MergedTensor, plan: Plan) -> PlannedTensor:
    is_base = tensor.sources[0][0] == BASE_NUMBER
    tables = [plan.base if number == BASE_NUMBER else plan.inputs[number] for number, _ in tensor.sources]
    return PlannedTensor(
        name=tensor.name,
        element=tensor.result.element.name,
        shape=tensor.result.shape,
        how="kept from the base" if is_base else "copied" if tensor.copied else "merged",
        sources=tuple(str(table.checkpoint.path) for table in tables if table is not None),
    )
