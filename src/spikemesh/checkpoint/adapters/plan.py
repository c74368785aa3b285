"""Which tensor of the base each adapter changes, checked by tables alone, before any number is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spikemesh.checkpoint.adapters.adapter import SHOWN, Adapter, Pair
from spikemesh.checkpoint.recipe import DTYPES
from spikemesh.checkpoint.source import Tensor, TensorInfo
from spikemesh.errors import CheckpointError
from spikemesh.kernels import ELEMENTS


@dataclass(frozen=True)
class Product:
    """A pair of factors of one adapter, and how it lies in its target."""

    adapter: int
    """Its number in the order of the plan."""
    pair: Pair
    is_transposed: bool


@dataclass(frozen=True, kw_only=True)
class ChangedTensor:
    """One tensor of the result. Without products and replacements it is the base's, perhaps in another type."""

    result: TensorInfo
    base: TensorInfo
    products: tuple[Product, ...] = ()
    saved: tuple[tuple[int, Tensor], ...] = ()
    """(number of the adapter, its tensor): trained in full, so that its difference from the base counts."""

    @property
    def name(self) -> str:
        return self.result.name

    @property
    def is_copy(self) -> bool:
        """Whether its bytes are the base's."""
        return not self.products and not self.saved and self.result.element == self.base.element


def plan(base: Sequence[TensorInfo], adapters: Sequence[Adapter], dtype: str) -> list[ChangedTensor]:
    """Every tensor of the base, in name order. `CheckpointError` names what does not fit it."""
    names = {tensor.name for tensor in base}
    for adapter in adapters:
        if strange := [target for target in adapter.targets if target not in names]:
            raise CheckpointError(
                f"{adapter.path} changes tensors that the base does not have: {_some(strange)}. The base has "
                f"{_some(sorted(names))}. Give the base that it was trained on."
            )
    return [_changed(tensor, adapters, dtype) for tensor in sorted(base, key=lambda tensor: tensor.name)]


def _changed(tensor: TensorInfo, adapters: Sequence[Adapter], dtype: str) -> ChangedTensor:
    is_float = tensor.element.kind == "float"
    products = tuple(
        _product(i, adapter, adapter.pairs[tensor.name], tensor)
        for i, adapter in enumerate(adapters)
        if tensor.name in adapter.pairs
    )
    saved = tuple((i, a.saved[tensor.name]) for i, a in enumerate(adapters) if tensor.name in a.saved)
    for i, other in saved:
        if other.shape != tensor.shape or other.element.kind != "float" or not is_float:
            raise CheckpointError(
                f"{adapters[i].path} has {other.describe()} in place of {tensor.name[:200]!r}, which is "
                f"{tensor.describe()} in the base."
            )
    if saved and products:
        raise CheckpointError(
            f"{tensor.name[:200]!r} was trained in full in {adapters[saved[0][0]].path} and as LoRA in "
            f"{adapters[products[0].adapter].path}. Merge one of them alone."
        )
    element = ELEMENTS[DTYPES[dtype]] if is_float and dtype != "keep" else tensor.element
    return ChangedTensor(
        result=TensorInfo(name=tensor.name, element=element, shape=tensor.shape),
        base=tensor,
        products=products,
        saved=saved,
    )


def _product(number: int, adapter: Adapter, pair: Pair, tensor: TensorInfo) -> Product:
    is_transposed = pair.is_transposed(tensor.shape, fan_in_fan_out=adapter.config.fan_in_fan_out)
    if tensor.element.kind != "float" or is_transposed is None:
        raise CheckpointError(
            f"{adapter.path} changes {tensor.name[:200]!r} by factors {pair.b.describe()} and {pair.a.describe()}, "
            f"which does not fit the {tensor.describe()} of the base."
        )
    return Product(number, pair, is_transposed)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(repr(name[:200]) for name in names[:SHOWN]) + more
