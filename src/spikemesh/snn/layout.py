"""The flat coordinates of a run: which synapse is number 17.

Tensors come in name order, row-major inside a tensor. A masked tensor contributes its mask's ones only, every other
tensor all its elements. Coordinates are numbered 0..A-1; A is the letter for them. Everything that leaves the trainer
(deltas, merged weights, the shipped start) is a vector over these coordinates.
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
from spikemesh.snn.config import ModelConfig, check_tensors
from spikemesh.snn.model import SpikingLM
from spikemesh.snn.modules import MaskedLinear

Floats = npt.NDArray[np.float32]

THETA0 = "theta0"
MASK_PREFIX = "mask."


@dataclass(frozen=True)
class LayoutTensor:
    """One tensor's place in the layout: `num_coordinates` is the count of its mask's ones, or of all its elements."""

    name: str
    shape: tuple[int, ...]
    num_coordinates: int
    masked: bool


@dataclass(frozen=True)
class Layout:
    """The tensors of a model in coordinate order."""

    tensors: tuple[LayoutTensor, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """The layout of a model; it depends on names, shapes and masks, not on weights."""
        return cls(
            tuple(
                LayoutTensor(
                    name, tuple(values.shape), int(values.numel() if mask is None else mask.sum()), mask is not None
                )
                for name, values, mask in _tensors(model)
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
                values[name].flatten() if mask is None else values[name][mask] for name, _, mask in _tensors(model)
            ]
            theta: Floats = torch.cat(parts).numpy().astype(np.float32)
        return theta

    def scatter_(self, model: nn.Module, theta: Floats) -> None:
        """Set the model's weights to `theta` [A], in place. Masked weights become exactly zero."""
        spread = self.spread_values(model, theta)
        with torch.no_grad():
            for name, weights, _ in _tensors(model):
                weights.copy_(spread[name])

    def spread_values(self, model: nn.Module, theta: Floats) -> dict[str, Tensor]:
        """The inverse of `gather_values`: full tensors by name, zero where the mask is."""
        if theta.shape != (self.num_coordinates,):
            raise ValueError(f"expected {self.num_coordinates} coordinates, got shape {theta.shape}")
        parts = torch.split(torch.from_numpy(np.array(theta, np.float32)), [t.num_coordinates for t in self.tensors])
        spread = {}
        for (name, weights, mask), part in zip(_tensors(model), parts, strict=True):
            values = part.to(weights.dtype)
            if mask is None:
                spread[name] = values.reshape(weights.shape).clone()
            else:
                spread[name] = torch.zeros_like(weights).masked_scatter_(mask, values)
        return spread


def to_tensors(model: SpikingLM) -> dict[str, npt.NDArray[Any]]:
    """What a run ships as its start: "theta0" float32 [A], and "mask.<weight>" as packed bits (uint8) per mask."""
    tensors: dict[str, npt.NDArray[Any]] = {THETA0: Layout.of(model).gather(model)}
    for name, _, mask in _tensors(model):
        if mask is not None:
            tensors[MASK_PREFIX + name] = np.packbits(mask.numpy().reshape(-1))
    return tensors


def model_from_tensors(config: ModelConfig, tensors: Mapping[str, npt.NDArray[Any]]) -> SpikingLM:
    """The model that `to_tensors` took apart. Raises `InvalidData` for anything that does not fit `config`."""
    model = SpikingLM(config)
    masks = {MASK_PREFIX + name: mask for name, _, mask in _tensors(model) if mask is not None}
    if set(tensors) != {THETA0, *masks}:
        raise InvalidData(f"expected the tensors {sorted({THETA0, *masks})}, got {sorted(tensors)[:32]}")
    for name, mask in masks.items():
        mask.copy_(torch.from_numpy(_unpacked(name, tensors[name], mask)))
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
    """Every parameter in full, zeros where the mask is zero: what a checkpoint file holds."""
    with torch.no_grad():
        return {name: np.array(values.numpy(), np.float32) for name, values, _ in _tensors(model)}


def model_from_dense(config: ModelConfig, tensors: Mapping[str, npt.NDArray[Any]]) -> SpikingLM:
    """The model that `dense_tensors` took apart; where it has a zero there is no synapse. Raises `InvalidData`.

    Any mask is taken: a union of two runs' models has more synapses per neuron than `config.density` says, and runs.
    Only a run's start must have the balanced masks that its layout counts on; `model_from_tensors` refuses others.
    """
    check_tensors(config, tensors)
    model = SpikingLM(config)
    with torch.no_grad():
        for name, values, mask in _tensors(model):
            values.copy_(torch.from_numpy(np.array(tensors[name])))
            if mask is not None:
                mask.copy_(values != 0)
    return model


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """(name, parameter, its mask or None) in name order."""
    masks = {
        f"{name}.weight" if name else "weight": module.mask
        for name, module in model.named_modules()
        if isinstance(module, MaskedLinear)
    }
    for name, values in sorted(model.named_parameters()):
        yield name, values, masks.get(name)


def _unpacked(name: str, packed: npt.NDArray[Any], expected: Tensor) -> npt.NDArray[np.bool_]:
    """A mask with the shape and the number of ones per row of `expected`; the bits beyond its end are zero."""
    num_bits = expected.numel()
    if packed.dtype != np.uint8 or packed.shape != (-(-num_bits // 8),):
        raise InvalidData(
            f"expected {name} as {-(-num_bits // 8)} uint8, got {packed.dtype} of shape {packed.shape[:4]}"
        )
    bits = np.unpackbits(packed)
    if bits[num_bits:].any():
        raise InvalidData(f"expected zeros after bit {num_bits} of {name}, got ones")
    mask = bits[:num_bits].astype(np.bool_).reshape(expected.shape)
    fan_in = expected.sum(1).numpy()
    if not np.array_equal(mask.sum(1), fan_in):
        raise InvalidData(f"expected {fan_in[0]} synapses per neuron in {name}, got {sorted(set(mask.sum(1)))[:4]}")
    return mask
