"""What will be merged into what, checked as far as tables of tensors can tell, before a byte of data is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spikemesh.checkpoint.recipe import DTYPES
from spikemesh.checkpoint.source import Checkpoint, Tensor, TensorInfo
from spikemesh.errors import CheckpointError
from spikemesh.kernels import ELEMENTS, Element

MASK_NAMES = ("{}", "{}_mask", "{}.mask")
"""How a mask file may name the mask of a tensor; `weight_mask` is what torch's pruning writes."""
SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class MergedTensor:
    """One tensor of the result and where its values come from."""

    result: TensorInfo
    element: Element
    """Of the inputs; that of the result may be another."""
    sources: tuple[tuple[int, Tensor], ...]
    """(number of the input, its tensor); inputs without this tensor have no part in it."""
    base: Tensor | None = None
    mask: Tensor | None = None

    @property
    def name(self) -> str:
        return self.result.name

    @property
    def smallest_element_bytes(self) -> int:
        """Of everything that is read or written for it: a stretch that is whole pieces of that is so of all."""
        elements = (self.element, self.result.element, *(() if self.mask is None else (self.mask.element,)))
        return min(int(element.size_bytes) for element in elements)


def plan(
    inputs: Sequence[Checkpoint], *, base: Checkpoint | None = None, mask: Checkpoint | None = None, dtype: str = "keep"
) -> list[MergedTensor]:
    """Every tensor that some input has, in name order. `CheckpointError` names the tensors that clash."""
    names = sorted({name for checkpoint in inputs for name in checkpoint.tensors})
    clashes: list[str] = []
    merged = []
    for name in names:
        sources = tuple((i, c.tensors[name]) for i, c in enumerate(inputs) if name in c.tensors)
        first = sources[0][1]
        beside = [(inputs[i], tensor) for i, tensor in sources]
        reference = base.tensors.get(name) if base is not None else None
        if base is not None and reference is not None:
            beside.append((base, reference))
        if len({tensor.describe() for _, tensor in beside}) > 1:
            clashes.append(f"{name[:200]!r} is " + ", ".join(f"{t.describe()} in {c.path}" for c, t in beside))
            continue
        is_float = first.element.kind == "float"
        merged.append(
            MergedTensor(
                result=TensorInfo(
                    name=name,
                    element=ELEMENTS[DTYPES[dtype]] if is_float and dtype != "keep" else first.element,
                    shape=first.shape,
                ),
                element=first.element,
                sources=sources,
                base=reference if is_float else None,
                mask=_mask_of(first, mask) if is_float and mask is not None else None,
            )
        )
    if clashes:
        more = f" And {len(clashes) - SHOWN} more." if len(clashes) > SHOWN else ""
        raise CheckpointError(
            "these tensors do not fit together: "
            + "; ".join(clashes[:SHOWN])
            + f".{more} Merge checkpoints of one model; of one type, too (--dtype makes a copy in another)."
        )
    if not merged:
        raise CheckpointError("there are no tensors to merge.")
    return merged


def _mask_of(tensor: Tensor, mask: Checkpoint) -> Tensor | None:
    found = next((mask.tensors[n] for form in MASK_NAMES if (n := form.format(tensor.name)) in mask.tensors), None)
    if found is not None and found.shape != tensor.shape:
        raise CheckpointError(
            f"the mask of {tensor.name[:200]!r} in {mask.path} is {found.describe()}, the tensor {tensor.describe()}."
        )
    return found


def partly_held(merged: Sequence[MergedTensor], inputs: Sequence[Checkpoint]) -> Mapping[str, tuple[str, ...]]:
    """Tensors that only some inputs have, and the paths of those that have them."""
    return {
        tensor.name: tuple(str(inputs[i].path) for i, _ in tensor.sources)
        for tensor in merged
        if len(tensor.sources) < len(inputs)
    }
