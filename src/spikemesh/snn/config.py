"""What a model is, apart from its weights. No torch, so that a model can be described, exported and run without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spikemesh.errors import InvalidData
from spikemesh.snn.settings import check_bounds, read_settings

VOCAB = 256
"""Bytes are tokens."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a model is, apart from its weights. Stored in the genesis, so every field is a plain scalar.

    The defaults are measured: see docs/lab-notes.md.
    """

    width: int = 512
    """Channels of the stream of currents, D."""
    hidden: int = 1024
    """Neurons of each block's hidden population, H."""
    num_blocks: int = 1
    num_input_delays: int = 4
    """How many of the last tokens each channel's input current mixes."""
    num_axon_delays: int = 4
    """The axons of a stream population deliver 0..num_axon_delays-1 tokens late."""
    density: float = 0.07
    """Share of a weight matrix that are synapses; the rest is masked."""
    mask_seed: int = 0
    target_rate: float = 0.2
    """Spikes per neuron and token at the start."""
    initial_leak: float = 0.15
    sharpness: float = 0.5
    """Of the arctangent surrogate: larger is narrower."""

    def __post_init__(self) -> None:
        """Bound everything: a config may come from a stranger, and it decides what is allocated."""
        bounds = (
            ("width", 1, 1 << 14),
            ("hidden", 1, 1 << 16),
            ("num_blocks", 1, 64),
            ("num_input_delays", 1, 32),
            ("num_axon_delays", 1, 32),
            ("mask_seed", 0, 1 << 53),
            ("density", 1e-4, 1.0),
            ("target_rate", 1e-3, 0.9),
            ("initial_leak", 1e-3, 0.999),
            ("sharpness", 1e-3, 1e3),
        )
        check_bounds(self, bounds)
        if self.num_weights > MAX_WEIGHTS:
            raise ValueError(f"a model has at most {MAX_WEIGHTS} dense weights, this one {self.num_weights}")

    @property
    def num_weights(self) -> int:
        """Elements of all weight matrices, masked ones included."""
        return sum(rows * columns for rows, columns in self.weight_shapes().values())

    def weight_shapes(self) -> dict[str, tuple[int, int]]:
        """(outputs, inputs) of every weight matrix, by name, in the order in which random masks are drawn."""
        shapes = {}
        for b in range(self.num_blocks):
            shapes[f"blocks.{b}.w_in.weight"] = (self.hidden, self.width)
            shapes[f"blocks.{b}.w_out.weight"] = (self.width, self.hidden)
        return shapes | {"head.weight": (VOCAB, self.num_blocks * self.hidden + self.width)}

    def to_dict(self) -> dict[str, bool | int | float | str]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> ModelConfig:
        """Raises `InvalidData` for an unknown key, a wrong type or a value out of bounds."""
        return read_settings(cls, values)


MAX_WEIGHTS = 1 << 31


def balanced_fan_in(num_inputs: int, density: float) -> int:
    """Synapses per neuron: round(density * num_inputs), at least 1."""
    return max(1, round(density * num_inputs))


def population_names(config: ModelConfig) -> list[str]:
    """In the order in which currents flow."""
    return [f"blocks.{b}.{part}" for b in range(config.num_blocks) for part in ("stream", "hidden")] + ["output"]


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a model file, by name."""
    width, hidden = config.width, config.hidden
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (VOCAB, width),
        "delay_mix": (config.num_input_delays, width),
        "readout.leak_logit": (VOCAB,),
        "readout.bias": (VOCAB,),
    }
    for name in population_names(config):
        size = hidden if name.endswith("hidden") else width
        shapes |= {f"{name}.leak_logit": (size,), f"{name}.threshold": (size,)}
    return shapes | config.weight_shapes()


def check_tensors(config: ModelConfig, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """`InvalidData` unless these are the finite float32 tensors of a model with `config`."""
    wanted = tensor_shapes(config)
    seen = {name: array.shape for name, array in tensors.items() if array.dtype == np.float32}
    if seen != wanted or len(tensors) != len(wanted):
        raise InvalidData(f"expected the float32 tensors {wanted!s:.500}, got {seen!s:.500}")
    for name, array in tensors.items():
        if not bool(np.isfinite(array).all()):
            raise InvalidData(f"expected finite weights in {name}, got an infinity or NaN")
