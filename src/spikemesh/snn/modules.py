"""Thin modules around `functional`: they hold parameters, never state. State goes in and comes out of `forward`.

Shapes: L token (time), B batch, N neuron, I input. Time-major: [L, B, N].
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikemesh.snn.functional import leaky_integral, lif


class LIF(nn.Module):
    """A population of `num_neurons` with a learnable leak and threshold each; see `functional.lif`.

    leak = sigmoid(leak_logit) stays in (0, 1), whatever the optimiser or a merge does to the logit.
    """

    def __init__(self, num_neurons: int, *, leak: float, sharpness: float) -> None:
        super().__init__()
        self.num_neurons = num_neurons
        self.sharpness = sharpness
        self.leak_logit = nn.Parameter(torch.full((num_neurons,), math.log(leak / (1 - leak))))
        self.threshold = nn.Parameter(torch.ones(num_neurons))

    def initial_state(self, batch_size: int) -> Tensor:
        """Potentials at rest: zeros [B, N]."""
        return self.threshold.new_zeros(batch_size, self.num_neurons)

    def forward(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Currents x [L, B, N], potential v [B, N] -> (spikes [L, B, N], potential [B, N])."""
        return lif(x, v, torch.sigmoid(self.leak_logit), self.threshold, self.sharpness)


class LeakyReadout(nn.Module):
    """`num_neurons` membranes that integrate and never spike, plus a bias; see `functional.leaky_integral`."""

    def __init__(self, num_neurons: int, *, leak: float) -> None:
        super().__init__()
        self.num_neurons = num_neurons
        self.leak_logit = nn.Parameter(torch.full((num_neurons,), math.log(leak / (1 - leak))))
        self.bias = nn.Parameter(torch.zeros(num_neurons))

    def initial_state(self, batch_size: int) -> Tensor:
        """Potentials at rest: zeros [B, N]."""
        return self.bias.new_zeros(batch_size, self.num_neurons)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Currents x [L, B, N], potential y [B, N] -> (bias + potentials [L, B, N], last potential [B, N])."""
        potentials = leaky_integral(x, y, torch.sigmoid(self.leak_logit))
        return potentials + self.bias, potentials[-1]


class MaskedLinear(nn.Module):
    """y = (weight * mask) x, with a fixed boolean mask: synapses exist where it is True.

    Multiplying in the forward pass masks the gradient as well. A masked weight starts at zero and its gradient is
    zero, so Adam's moments, its step and weight decay leave it at exactly zero.
    """

    mask: Tensor

    def __init__(self, mask: npt.NDArray[np.bool_]) -> None:
        super().__init__()
        self.register_buffer("mask", torch.from_numpy(np.array(mask, np.bool_)))
        self.weight = nn.Parameter(torch.zeros(self.mask.shape))

    def forward(self, spikes: Tensor) -> Tensor:
        """Spikes [..., I] -> currents [..., N]."""
        return F.linear(spikes, self.weight * self.mask)

    @property
    def num_alive(self) -> int:
        return int(self.mask.sum())

    @property
    def fan_in(self) -> int:
        """Synapses per neuron; masks made by `balanced_mask` have the same number in every row."""
        return self.num_alive // self.mask.shape[0]


def balanced_mask(num_outputs: int, num_inputs: int, density: float, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """A random mask [N, I] with the same number of ones in every row: round(density * I), at least 1.

    Balanced rows give every neuron the same fan-in, so one scale of the weights suits all of them.
    """
    fan_in = max(1, round(density * num_inputs))
    chosen = np.argsort(rng.random((num_outputs, num_inputs)), axis=1, kind="stable")[:, :fan_in]
    mask = np.zeros((num_outputs, num_inputs), np.bool_)
    np.put_along_axis(mask, chosen, True, axis=1)
    return mask


class AxonDelay(nn.Module):
    """Each axon delivers its spikes a fixed number of tokens late: neuron n waits `n * num_delays // N` tokens.

    The delays of one population thus cover 0..num_delays-1 in equal shares: whoever reads it sees the last few
    tokens, while the state stays num_delays - 1 spikes per neuron.
    """

    def __init__(self, num_neurons: int, *, num_delays: int) -> None:
        super().__init__()
        self.num_neurons = num_neurons
        self.num_delays = num_delays
        self.bounds = [num_neurons * k // num_delays for k in range(num_delays + 1)]

    def initial_state(self, like: Tensor, batch_size: int) -> Tensor:
        """Spikes on their way, none yet: zeros [num_delays - 1, B, N]."""
        return like.new_zeros(self.num_delays - 1, batch_size, self.num_neurons)

    def forward(self, spikes: Tensor, sent: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes [L, B, N], the last ones before them `sent` [num_delays - 1, B, N] -> (arriving [L, B, N], sent)."""
        if self.num_delays == 1:
            return spikes, sent
        length, waiting = spikes.shape[0], self.num_delays - 1
        history = torch.cat([sent, spikes])
        late = [
            history[waiting - k : waiting - k + length, :, start:stop]
            for k, (start, stop) in enumerate(zip(self.bounds[:-1], self.bounds[1:], strict=True))
        ]
        return torch.cat(late, 2), history[-waiting:]
