"""The flat coordinates of a run: which synapse is number 17.

Tensors come in name order, row-major inside a tensor. A weight matrix contributes its synapses only, the ones of its
mask, every other tensor all its elements. Coordinates are numbered 0..A-1; A is the letter for them. Everything that
leaves the trainer (deltas, merged weights, the shipped start) is a vector over these coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from spikemesh.errors import InvalidData
from spikemesh.snn.config import ModelConfig, balanced_fan_in, check_tensors
from spikemesh.snn.model import SpikingLM
from spikemesh.snn.modules import AnyLinear, MaskedLinear, SparseLinear
from spikemesh.snn.table import MASK_PREFIX, THETA0, LayoutTensor

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layout:
    """The tensors of a model in coordinate order."""

    tensors: tuple[LayoutTensor, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """The layout of a model; it depends on names, shapes and masks, not on weights."""
        return cls(
            tuple(
                LayoutTensor(name, tuple(values.shape), values.numel(), False)
                if layer is None
                else LayoutTensor(name, layer.shape, layer.num_alive, True)
                for name, values, layer in _tensors(model)
            )
        )

    @property
    def num_coordinates(self) -> int:
        return sum(tensor.num_coordinates for tensor in self.tensors)

    def gather(self, model: nn.Module) -> Floats:
        """The model's weights as one vector [A]."""
        return self.gather_values(model, dict(model.named_parameters()))

    def gather_values(self, model: nn.Module, values: Mapping[str, Tensor]) -> Floats:
        """Any values that lie like the model's weights (gradients, moments), by tensor name, as one vector [A]."""
        with torch.no_grad():
            parts = [
                values[name].flatten() if layer is None else layer.synaptic(values[name])
                for name, _, layer in _tensors(model)
            ]
            theta: Floats = torch.cat(parts).cpu().numpy().astype(np.float32)
        return theta

    def scatter_(self, model: nn.Module, theta: Floats) -> None:
        """Set the model's weights to `theta` [A], in place. Masked weights become exactly zero."""
        spread = self.spread_values(model, theta)
        with torch.no_grad():
            for name, weights, _ in _tensors(model):
                weights.copy_(spread[name])

    def spread_values(self, model: nn.Module, theta: Floats) -> dict[str, Tensor]:
        """The inverse of `gather_values`: tensors by name that lie like the model's weights."""
        if theta.shape != (self.num_coordinates,):
            raise ValueError(f"expected {self.num_coordinates} coordinates, got shape {theta.shape}")
        parts = torch.split(torch.from_numpy(np.array(theta, np.float32)), [t.num_coordinates for t in self.tensors])
        spread = {}
        for (name, weights, layer), part in zip(_tensors(model), parts, strict=True):
            values = part.to(weights)
            spread[name] = values.reshape(weights.shape).clone() if layer is None else layer.laid(values)
        return spread


def to_tensors(model: SpikingLM) -> dict[str, npt.NDArray[Any]]:
    """What a run ships as its start: "theta0" float32 [A], and "mask.<weight>" as packed bits (uint8) per mask."""
    tensors: dict[str, npt.NDArray[Any]] = {THETA0: Layout.of(model).gather(model)}
    for name, _, layer in _tensors(model):
        if layer is not None:
            tensors[MASK_PREFIX + name] = np.packbits(layer.mask.cpu().numpy().reshape(-1))
    return tensors


def model_from_tensors(
    config: ModelConfig, tensors: Mapping[str, npt.NDArray[Any]], *, sparse: bool = False
) -> SpikingLM:
    """The model that `to_tensors` took apart. Raises `InvalidData` for anything that does not fit `config`."""
    wanted = {THETA0, *(MASK_PREFIX + name for name in config.weight_shapes())}
    if set(tensors) != wanted:
        raise InvalidData(f"expected the tensors {sorted(wanted)}, got {sorted(tensors)[:32]}")

    def mask_of(name: str, rows: int, columns: int) -> npt.NDArray[np.bool_]:
        fan_in = balanced_fan_in(columns, config.density)
        return _unpacked(MASK_PREFIX + name, tensors[MASK_PREFIX + name], (rows, columns), fan_in)

    model = SpikingLM(config, sparse=sparse, masks=mask_of)
    layout = Layout.of(model)
    theta = tensors[THETA0]
    if theta.dtype != np.float32 or theta.shape != (layout.num_coordinates,):
        raise InvalidData(
            f"expected theta0 as {layout.num_coordinates} float32, got {theta.dtype} of shape {theta.shape[:4]}"
        )
    if not bool(np.isfinite(theta).all()):
        raise InvalidData("expected finite weights in theta0, got an infinity or NaN")
    layout.scatter_(model, theta)
    return model


def dense_tensors(model: nn.Module) -> dict[str, Floats]:
    """Every parameter in full, zeros where there is no synapse: what a checkpoint file holds."""
    with torch.no_grad():
        return {
            name: np.array((values if layer is None else layer.full(values)).cpu().numpy(), np.float32)
            for name, values, layer in _tensors(model)
        }


def model_from_dense(
    config: ModelConfig, tensors: Mapping[str, npt.NDArray[Any]], *, sparse: bool = False
) -> SpikingLM:
    """The model that `dense_tensors` took apart; where it has a zero there is no synapse. Raises `InvalidData`.

    Any mask is taken: a union of two runs' models has more synapses per neuron than `config.density` says, and runs.
    Only a run's start must have the balanced masks that its layout counts on; `model_from_tensors` refuses others.
    """
    check_tensors(config, tensors)

    def mask_of(name: str, _rows: int, _columns: int) -> npt.NDArray[np.bool_]:
        mask: npt.NDArray[np.bool_] = tensors[name] != 0
        return mask

    model = SpikingLM(config, sparse=sparse, masks=mask_of)
    with torch.no_grad():
        for name, values, layer in _tensors(model):
            full = torch.from_numpy(np.array(tensors[name]))
            values.copy_(full if layer is None else layer.laid(full[layer.mask]))
    return model


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor, AnyLinear | None]]:
    """(name, parameter, the layer whose weight it is or None) in name order."""
    layers = {
        f"{name}.weight" if name else "weight": module
        for name, module in model.named_modules()
        if isinstance(module, MaskedLinear | SparseLinear)
    }
    for name, values in sorted(model.named_parameters()):
        yield name, values, layers.get(name)


def _unpacked(name: str, packed: npt.NDArray[Any], shape: tuple[int, int], fan_in: int) -> npt.NDArray[np.bool_]:
    """A mask of this shape with `fan_in` ones in every row; the bits beyond its end are zero."""
    num_bits = shape[0] * shape[1]
    if packed.dtype != np.uint8 or packed.shape != (-(-num_bits // 8),):
        raise InvalidData(
            f"expected {name} as {-(-num_bits // 8)} uint8, got {packed.dtype} of shape {packed.shape[:4]}"
        )
    bits = np.unpackbits(packed)
    if bits[num_bits:].any():
        raise InvalidData(f"expected zeros after bit {num_bits} of {name}, got ones")
    mask = bits[:num_bits].view(np.bool_).reshape(shape)
    seen = mask.sum(1)
    if (seen != fan_in).any():
        raise InvalidData(f"expected {fan_in} synapses per neuron in {name}, got {sorted(set(seen.tolist()))[:4]}")
    return mask
