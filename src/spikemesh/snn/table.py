"""What a run's start is made of, and where each of its numbers stands: known from the config alone. No torch.

Tensors come in name order, row-major inside a tensor. A weight matrix contributes its synapses only, the ones of its
mask, every other tensor all its elements. Coordinates are numbered 0..A-1; A is the letter for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spikemesh.snn.config import ModelConfig, balanced_fan_in, tensor_shapes

THETA0 = "theta0"
MASK_PREFIX = "mask."


@dataclass(frozen=True)
class LayoutTensor:
    """One tensor's place in the layout: `num_coordinates` is the count of its mask's ones, or of all its elements."""

    name: str
    shape: tuple[int, ...]
    num_coordinates: int
    masked: bool


def layout_tensors(config: ModelConfig) -> tuple[LayoutTensor, ...]:
    """The tensors of a run that starts with this model, in coordinate order: masks are balanced."""
    masked = config.weight_shapes()
    return tuple(
        LayoutTensor(name, shape, shape[0] * balanced_fan_in(shape[1], config.density), True)
        if name in masked
        else LayoutTensor(name, shape, math.prod(shape), False)
        for name, shape in sorted(tensor_shapes(config).items())
    )


def start_shapes(config: ModelConfig) -> dict[str, tuple[npt.DTypeLike, tuple[int, ...]]]:
    """What a run ships as its start: "theta0" float32 [A], and "mask.<weight>" as packed bits (uint8) per mask."""
    tensors = layout_tensors(config)
    masks = {MASK_PREFIX + t.name: -(-math.prod(t.shape) // 8) for t in tensors if t.masked}
    return {
        THETA0: (np.float32, (sum(t.num_coordinates for t in tensors),)),
        **{name: (np.uint8, (num_bytes,)) for name, num_bytes in masks.items()},
    }
