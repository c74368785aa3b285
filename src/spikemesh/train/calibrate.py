"""After a merge: thresholds refitted so that every population fires at a given rate, its parents' mean.

The mean of two networks fires less than either, as the activations of an averaged network vary less (Jordan et al.
2022, REPAIR, who restore the statistics of each layer's pre-activations). The spiking analogue is to restore each
layer's firing rate, with one factor per population such that mean spikes per neuron and token = target:

    threshold = factor * threshold      (a negative one is divided by the factor)

So a factor above 1 raises every threshold and none changes its sign; for a positive threshold it is the same as
dividing all currents that the neuron receives by the factor. Populations are refitted in the order in which currents
flow: each one on the input that it gets from those before it as they are then. What this does to the loss is
measured, and mixed: see docs/lab-notes.md.

    tokens = calibration_tokens(corpus.train_text)
    target = mean_rates([spike_rates(parent, tokens) for parent in parents])
    report = calibrate(merged, target, tokens)

Shapes: B batch, L token, N neuron. Inside, tensors are time-major.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spikemesh.progress import SILENT, Progress
from spikemesh.snn import LIF, SpikingLM, lif_step, spike_rates
from spikemesh.train.data import Bytes, held_out_windows

MAX_FACTOR = 16.0
"""A population that reaches its target at no factor between 1/16 and 16 is left as it is."""
MAX_BISECTIONS = 40
"""Halves the search range to what float32 can tell apart."""


@dataclass(frozen=True, kw_only=True)
class Refit:
    """What became of one population; rates are mean spikes per neuron and token."""

    name: str
    target: float
    before: float
    """In the model as it was given, before anything was refitted."""
    after: float
    factor: float
    """On its thresholds; 1 if they were left as they were."""
    reached: bool
    """Whether `after` lies within the tolerance of `target`."""


@dataclass(frozen=True, kw_only=True)
class CalibrationReport:
    """One `Refit` per population, in the order in which currents flow."""

    refits: tuple[Refit, ...]
    tolerance: float

    @property
    def unreached(self) -> tuple[str, ...]:
        """The populations whose target rate no factor reaches: silent ones, or a rate that jumps over it."""
        return tuple(refit.name for refit in self.refits if not refit.reached)

    @property
    def shift_before(self) -> float:
        """The largest distance of a population's rate from its target, relative to the target."""
        return max(_relative(refit.before, refit.target) for refit in self.refits)

    @property
    def shift_after(self) -> float:
        return max(_relative(refit.after, refit.target) for refit in self.refits)


def calibration_tokens(text: Bytes, *, num_windows: int = 64, num_tokens: int = 256) -> Tensor:
    """Windows spread evenly over `text`, [B, L]; fewer or shorter ones if the text is short."""
    windows = held_out_windows(text, num_bytes=num_windows * num_tokens, num_tokens=num_tokens)
    return torch.from_numpy(windows[:, :-1])


def mean_rates(rates: Sequence[Mapping[str, float]], weights: Sequence[float] | None = None) -> dict[str, float]:
    """The weighted mean of several models' `spike_rates`, by population."""
    shares = [1.0] * len(rates) if weights is None else list(weights)
    if not rates or len(shares) != len(rates) or not all(share >= 0 for share in shares) or not sum(shares) > 0:
        raise ValueError(f"expected rates, each with a weight of 0 or more, got {len(rates)} and {shares}")
    if any(other.keys() != rates[0].keys() for other in rates):
        raise ValueError(f"expected models of the same populations, got {[sorted(other) for other in rates]}")
    total = math.fsum(shares)
    return {
        name: math.fsum(share * other[name] for share, other in zip(shares, rates, strict=True)) / total
        for name in rates[0]
    }


def calibrate(
    model: SpikingLM,
    target_rates: Mapping[str, float],
    tokens: Tensor,
    *,
    tolerance: float = 5e-3,
    progress: Progress = SILENT,
) -> CalibrationReport:
    """Refit the thresholds of `model` in place until every population fires at its target rate on `tokens` [B, L].

    `tolerance` is relative to the target. It cannot be arbitrarily small: text repeats itself, so many equal currents
    cross a threshold at the same factor, and the rate jumps. A population that is there already is not touched, so a
    second call with the same arguments changes nothing. One that cannot get there keeps its thresholds, one whose rate
    jumps over its target ends on the nearer side, and the report says so.
    Deterministic. All tokens pass at once: memory is about five float32 values per token and hidden neuron.
    """
    populations = {name: module for name, module in model.named_modules() if isinstance(module, LIF)}
    _check(populations, target_rates, tokens, tolerance)
    progress.begin("refitting thresholds", len(populations), "layers")
    before = spike_rates(model, tokens)
    refits: list[Refit] = []

    def refit(name: str, neurons: LIF, currents: Tensor, potential: Tensor) -> None:
        target = target_rates[name]
        found = _search(_rate_by_factor(neurons, currents, potential), target, tolerance * target)
        neurons.threshold.copy_(_scaled(neurons.threshold, found.factor))
        reached = abs(found.rate - target) <= tolerance * target
        refits.append(
            Refit(
                name=name,
                target=target,
                before=before[name],
                after=found.rate,
                factor=found.factor,
                reached=reached,
            )
        )
        progress.advance(1)

    with torch.no_grad(), _before_each(populations, refit):
        model(tokens)
    return CalibrationReport(refits=tuple(refits), tolerance=tolerance)


class _Trial(NamedTuple):
    factor: float
    rate: float


def _search(rate: Callable[[float], float], target: float, tolerance: float) -> _Trial:
    """The factor nearest to 1 at which `rate` is within `tolerance` of `target`, by bisection.

    If no bracket is found, factor 1. If the rate jumps over the target, the nearer side of the jump.
    """
    low = _Trial(1.0, rate(1.0))
    if abs(low.rate - target) <= tolerance:
        return low
    high = _other_side(rate, low, target)
    if high is None:
        return low
    for _ in range(MAX_BISECTIONS):
        factor = math.sqrt(low.factor * high.factor)
        middle = _Trial(factor, rate(factor))
        if abs(middle.rate - target) <= tolerance:
            return middle
        low, high = (middle, high) if (middle.rate < target) == (low.rate < target) else (low, middle)
    return min(low, high, key=lambda trial: abs(trial.rate - target))


def _other_side(rate: Callable[[float], float], here: _Trial, target: float) -> _Trial | None:
    """A trial on the other side of the target than `here`, near 1 rather than far; None if there is none in range."""
    too_slow, reach = here.rate < target, 2.0
    while reach <= MAX_FACTOR:
        factor = 1 / reach if too_slow else reach
        trial = _Trial(factor, rate(factor))
        if trial.rate == target or (trial.rate < target) != too_slow:
            return trial
        reach *= 2
    return None


def _scaled(threshold: Tensor, factor: float) -> Tensor:
    return torch.where(threshold > 0, threshold * factor, threshold / factor)


def _rate_by_factor(neurons: LIF, currents: Tensor, potential: Tensor) -> Callable[[float], float]:
    """Spikes per neuron and token on `currents` [L, B, N] from `potential` [B, N], as a function of the factor."""
    leak = torch.sigmoid(neurons.leak_logit)

    def rate(factor: float) -> float:
        threshold, v, num_spikes = _scaled(neurons.threshold, factor), potential, 0
        for x in currents.unbind():
            spikes, v = lif_step(x, v, leak, threshold)
            num_spikes += int(torch.count_nonzero(spikes))
        return num_spikes / currents.numel()

    return rate


@contextmanager
def _before_each(populations: Mapping[str, LIF], call: Callable[[str, LIF, Tensor, Tensor], None]) -> Iterator[None]:
    """While open, `call(name, neurons, currents, potential)` comes before each population's own forward pass."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, Tensor]], None]:
        return lambda _module, inputs: call(name, populations[name], *inputs)

    handles = [neurons.register_forward_pre_hook(hook(name)) for name, neurons in populations.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check(populations: Mapping[str, LIF], target_rates: Mapping[str, float], tokens: Tensor, tolerance: float) -> None:
    if target_rates.keys() != populations.keys():
        raise ValueError(f"expected a target rate for each of {sorted(populations)}, got {sorted(target_rates)}")
    if not all(0 <= rate <= 1 for rate in target_rates.values()):
        raise ValueError(f"expected rates in 0..1 spikes per neuron and token, got {dict(target_rates)}")
    if tokens.ndim != 2 or tokens.numel() == 0:
        raise ValueError(f"expected tokens [B, L], at least one, got shape {tuple(tokens.shape)}")
    if not tolerance > 0:
        raise ValueError(f"expected a tolerance above 0, got {tolerance}")


def _relative(rate: float, target: float) -> float:
    if rate == target:
        return 0.0
    return abs(rate - target) / target if target > 0 else math.inf
