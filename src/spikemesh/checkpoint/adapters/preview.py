"""What a merge of adapters would do, in the time that the tables of base and adapters take to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from spikemesh.checkpoint.adapters.gather import Gathered, Library
from spikemesh.checkpoint.adapters.merge import PathLike
from spikemesh.checkpoint.adapters.plan import ChangedTensor, plan
from spikemesh.checkpoint.adapters.recipe import require_known, weights_of
from spikemesh.checkpoint.adapters.stack import companions_of, parts_of, require_folder
from spikemesh.checkpoint.companions import Carried, Companions, beside
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.preview import PlannedTensor
from spikemesh.progress import SILENT


@dataclass(frozen=True, kw_only=True)
class AdapterPreview:
    """A merge that was not done. Adapters that look like copies are told by a sample, and may turn out not to be."""

    base: Path
    dtype: str
    adapters: Mapping[str, Fraction]
    """By path: the weights."""
    copies: Mapping[str, str]
    tensors: Sequence[PlannedTensor]
    companions: Companions | None
    """What stands beside the base, if the result would be a folder and take it along."""
    result_bytes: int


@dataclass(frozen=True, kw_only=True)
class StackPreview:
    """Adapters that were not merged with each other. Whether the sum can be held exactly is not known yet."""

    adapters: Mapping[str, Fraction]
    """By path: the weights."""
    copies: Mapping[str, str]
    companions: Carried
    rank: int
    """The largest of a module."""
    num_modules: int


def preview_adapters(
    inputs: Sequence[PathLike],
    *,
    base: PathLike,
    out: PathLike,
    weights: Sequence[str | float | Fraction] | None = None,
    rule: str = "sum",
    dtype: str = "keep",
) -> AdapterPreview:
    """What `merge_adapters` of the same arguments would do, and its refusals as far as tables tell."""
    require_known(rule, dtype)
    with ExitStack() as stack:
        library = _library(stack)
        opened = library.open(Path(base))
        gathered = _gathered(library, inputs, weights, rule)
        tensors = plan(list(opened.tensors.values()), gathered.adapters, dtype)
        paths = [str(adapter.path) for adapter in gathered.adapters]
        return AdapterPreview(
            base=opened.path,
            dtype=dtype,
            adapters=_weights(gathered),
            copies=gathered.copies,
            tensors=[_planned(tensor, str(opened.path), paths) for tensor in tensors],
            companions=None if Path(out).suffix == ".safetensors" else beside(opened),
            result_bytes=sum(tensor.result.size_bytes for tensor in tensors),
        )


def preview_stack(
    inputs: Sequence[PathLike],
    *,
    out: PathLike,
    weights: Sequence[str | float | Fraction] | None = None,
    rule: str = "sum",
) -> StackPreview:
    """What `stack_adapters` of the same arguments would do, and its refusals as far as tables tell."""
    require_known(rule)
    require_folder(Path(out))
    with ExitStack() as stack:
        gathered = _gathered(_library(stack), inputs, weights, rule)
        parts = parts_of(gathered)
        return StackPreview(
            adapters=_weights(gathered),
            copies=gathered.copies,
            companions=companions_of(gathered),
            rank=max((sum(part.pair.rank for part in found) for found in parts.values()), default=0),
            num_modules=len(parts),
        )


def _library(stack: ExitStack) -> Library:
    return Library(stack=stack, known=KnownFiles(), progress=SILENT, quick=True)


def _gathered(
    library: Library, inputs: Sequence[PathLike], weights: Sequence[str | float | Fraction] | None, rule: str
) -> Gathered:
    factors = weights_of(weights, len(inputs), rule)
    return library.gather([Path(path) for path in inputs], factors, add_up=weights is not None)


def _weights(gathered: Gathered) -> dict[str, Fraction]:
    weighed = zip(gathered.leaves, gathered.adapters, strict=True)
    return dict(sorted((str(adapter.path), leaf.weight) for leaf, adapter in weighed))


def _planned(tensor: ChangedTensor, base: str, paths: Sequence[str]) -> PlannedTensor:
    numbers = sorted({*(product.adapter for product in tensor.products), *(number for number, _ in tensor.saved)})
    how = "kept from the base" if tensor.is_copy else "summed" if numbers else "given another type"
    return PlannedTensor(
        name=tensor.name,
        element=tensor.result.element.name,
        shape=tensor.result.shape,
        how=how,
        sources=(base, *sorted(paths[number] for number in numbers)),
    )
