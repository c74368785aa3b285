"""Two different sparsities, reported side by side and never mixed up: of weights (masks) and of activity (spikes)."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from spikemesh.snn.model import SpikingLM
from spikemesh.snn.modules import LIF, MaskedLinear, SparseLinear, Spikes
from spikemesh.snn.packed import PackedSpikes


class SpikeMeter:
    """While open, notes the share of ones among the spikes of every population: spikes per neuron and token.

    with SpikeMeter(model) as meter:
        model(tokens)
    meter.rates, meter.mean_rate
    """

    def __init__(self, model: nn.Module) -> None:
        self._populations = {name: m for name, m in model.named_modules() if isinstance(m, LIF)}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self.rates: dict[str, float] = {}

    @property
    def mean_rate(self) -> float:
        """Over all neurons, whatever their population; 0 before any forward pass."""
        sizes = {name: population.num_neurons for name, population in self._populations.items()}
        return sum(rate * sizes[name] for name, rate in self.rates.items()) / sum(sizes.values())

    def __enter__(self) -> SpikeMeter:
        for name, population in self._populations.items():
            self._handles.append(population.register_forward_hook(self._noting(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _noting(self, name: str) -> Any:
        def note(_module: nn.Module, _inputs: tuple[Tensor, ...], outputs: tuple[Spikes, Tensor]) -> None:
            spikes = outputs[0]
            self.rates[name] = spikes.rate if isinstance(spikes, PackedSpikes) else float(spikes.detach().mean())

        return note


def spike_rates(model: SpikingLM, tokens: Tensor) -> dict[str, float]:
    """True spike rate of every population on `tokens` [B, L]: mean of its zeros and ones."""
    with torch.no_grad(), SpikeMeter(model) as meter:
        model(tokens)
    return meter.rates


def weight_densities(model: nn.Module) -> dict[str, float]:
    """Synapses over elements for every weight matrix, and "total" over all of them."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, MaskedLinear | SparseLinear)}
    densities = {name: layer.num_alive / math.prod(layer.shape) for name, layer in layers.items()}
    alive = sum(layer.num_alive for layer in layers.values())
    return densities | {"total": alive / sum(math.prod(layer.shape) for layer in layers.values())}
