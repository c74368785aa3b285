"""The start of a run: every population fires at a target rate, and pair-STDP would change no neuron's weights.

Done layer by layer on a sample of real input, as the currents depend on the layers before:

1. *Fluctuation-driven* (Rossbroich, Gygax & Zenke 2022): weights have mean zero and standard deviation
   gain / sqrt(fan_in * rate), so that a neuron's current fluctuates with standard deviation of about `gain`, and
   spikes come from fluctuations that cross the threshold, not from the mean.
2. *Rate-calibrated*: each neuron's threshold is found by bisection such that it fires at `target_rate` on the sample.
3. *STDP-aware*: a common offset is added to each neuron's incoming weights. It decides how strongly the neuron
   follows the summed activity of its inputs, hence how far potentiation outweighs depression (`plasticity`). It is
   found by bisection such that the drift summed over the neuron's synapses is zero; at each trial offset the
   threshold is calibrated anew, so rate and drift hold together.

The same config, sample and seed give the same bits on the same machine; other machines receive the start as a blob.

Shapes: L token, B batch, N neuron, I pre-synaptic neuron. Time-major.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spikemesh.snn.config import ModelConfig
from spikemesh.snn.functional import lif
from spikemesh.snn.model import SpikingLM
from spikemesh.snn.modules import LIF, AnyLinear
from spikemesh.snn.plasticity import StdpWindow, neuron_drift, pre_trace

STREAM_GAIN = 0.5
"""Current fluctuation that a block adds to the stream, where the embedding's is 1."""
HEAD_GAIN = 0.1
"""Small, so that the first predictions are close to uniform."""
RATE_STEPS = 12
DRIFT_STEPS = 10
MAX_OFFSET = 1.0
"""Search range of the weight offset, in standard deviations of the neuron's weights."""


@dataclass(frozen=True, eq=False)
class Synapses:
    """What the STDP centring of one weight matrix needs: its spikes' sums over each neuron's synapses, [L, B, N]."""

    pre_sum: Tensor
    pre_trace_sum: Tensor

    @classmethod
    def of(cls, layer: AnyLinear, spikes: Tensor, window: StdpWindow) -> Synapses:
        mask = layer.mask.to(spikes.dtype)
        return cls(spikes @ mask.T, pre_trace(spikes, window) @ mask.T)


def initialise(
    config: ModelConfig, tokens: npt.NDArray[np.int64], *, seed: int, window: StdpWindow | None = None
) -> SpikingLM:
    """A model at its start, calibrated on `tokens` [B, L] (a few thousand bytes of training text)."""
    model = SpikingLM(config)
    rng = np.random.default_rng([seed, 0x696E6974])
    with torch.no_grad():
        _draw(model, rng)
        _calibrate(model, torch.from_numpy(tokens), window or StdpWindow())
    return model


def _draw(model: SpikingLM, rng: np.random.Generator) -> None:
    """Embedding N(0, 1); each channel listens mostly to one of the last tokens; weights as in step 1 above."""
    config = model.config
    model.embedding.copy_(_normal(rng, tuple(model.embedding.shape), 1.0))
    mix = _normal(rng, tuple(model.delay_mix.shape), 0.5)
    channels = torch.arange(config.width)
    mix[channels % config.num_input_delays, channels] = 1.0
    model.delay_mix.copy_(mix)
    for block in model.each_block():
        _draw_weights(block.w_in, rng, 1.0, config.target_rate)
        _draw_weights(block.w_out, rng, STREAM_GAIN, config.target_rate)
    _draw_weights(model.head, rng, HEAD_GAIN, config.target_rate)


def _draw_weights(layer: AnyLinear, rng: np.random.Generator, gain: float, rate: float) -> None:
    std = gain / (layer.fan_in * rate) ** 0.5
    weights = _normal(rng, layer.shape, std)
    layer.weight.copy_(layer.laid(weights[layer.mask]))


def _normal(rng: np.random.Generator, shape: tuple[int, ...], std: float) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape, np.float32) * np.float32(std))


def _calibrate(model: SpikingLM, tokens: Tensor, window: StdpWindow) -> None:
    """Steps 2 and 3, in the order in which currents flow."""
    rate = model.config.target_rate
    u, _ = model.input_currents(tokens.T, model.initial_state(tokens.shape[0]).last_tokens)
    into_stream: tuple[AnyLinear, Tensor] | None = None
    for block in model.each_block():
        u = _settle(block.stream, u, into_stream, rate, window)
        state = block.initial_state(tokens.shape[0])
        spikes, _ = block.stream(u, state.stream_v)
        arriving, _ = block.axons(spikes, state.sent)
        currents = _settle(block.hidden, block.w_in(arriving), (block.w_in, arriving), rate, window)
        hidden, _ = block.hidden(currents, state.hidden_v)
        u, into_stream = u + block.w_out(hidden), (block.w_out, hidden)
    _settle(model.output, u, into_stream, rate, window)


def _settle(
    neurons: LIF, currents: Tensor, source: tuple[AnyLinear, Tensor] | None, rate: float, window: StdpWindow
) -> Tensor:
    """Set thresholds, and the offset of the weights that the `source` layer sends in; returns the new currents."""
    if source is None:
        neurons.threshold.copy_(threshold_for_rate(neurons, currents, rate))
        return currents
    layer, spikes = source
    synapses = Synapses.of(layer, spikes, window)
    offset = offset_for_zero_drift(neurons, currents, synapses, rate, window, _weight_std(layer))
    layer.weight.add_(layer.laid(offset.unsqueeze(1).expand(layer.shape)[layer.mask]))
    shifted = currents + offset * synapses.pre_sum
    neurons.threshold.copy_(threshold_for_rate(neurons, shifted, rate))
    return shifted


def threshold_for_rate(neurons: LIF, currents: Tensor, rate: float) -> Tensor:
    """Thresholds [N] at which each neuron fires at `rate` on `currents` [L, B, N], by bisection."""
    span = 1 / (1 - torch.sigmoid(neurons.leak_logit))
    low, high = currents.amin((0, 1)).clamp_max(0) * span, currents.amax((0, 1)).clamp_min(0) * span
    for _ in range(RATE_STEPS):
        middle = (low + high) / 2
        too_fast = _fire(neurons, currents, middle).mean((0, 1)) > rate
        low, high = torch.where(too_fast, middle, low), torch.where(too_fast, high, middle)
    return (low + high) / 2


def offset_for_zero_drift(
    neurons: LIF, currents: Tensor, synapses: Synapses, rate: float, window: StdpWindow, weight_std: Tensor
) -> Tensor:
    """Weight offsets [N] at which the drift summed over each neuron's synapses is zero, by bisection.

    A larger offset makes a neuron follow its inputs more closely, which potentiates: the drift grows with it.
    """
    low, high = -MAX_OFFSET * weight_std, MAX_OFFSET * weight_std
    for _ in range(DRIFT_STEPS):
        middle = (low + high) / 2
        shifted = currents + middle * synapses.pre_sum
        post = _fire(neurons, shifted, threshold_for_rate(neurons, shifted, rate))
        grows = neuron_drift(synapses.pre_sum, synapses.pre_trace_sum, post, window) > 0
        low, high = torch.where(grows, low, middle), torch.where(grows, middle, high)
    return (low + high) / 2


def _fire(neurons: LIF, currents: Tensor, threshold: Tensor) -> Tensor:
    start = neurons.initial_state(currents.shape[1])
    return lif(currents, start, torch.sigmoid(neurons.leak_logit), threshold, neurons.sharpness)[0]


def _weight_std(layer: AnyLinear) -> Tensor:
    """Root mean square of each neuron's incoming weights, [N]."""
    return (layer.full(layer.weight).square().sum(1) / layer.fan_in).sqrt()
