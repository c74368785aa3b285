"""Pair-based spike-timing-dependent plasticity: what it would do to a synapse, in expectation.

Training here is by gradient; STDP decides only where it starts (see `init`). A synapse whose pre-synaptic spikes come
before the post-synaptic ones is potentiated, the other order depresses (Song, Miller & Abbott 2000):

    dw = +potentiation * exp(-d / potentiation_tau)      for a pre spike d >= 0 tokens before a post spike
    dw = -depression * exp(-(d - 1) / depression_tau)    for a pre spike d >= 1 tokens after a post spike

Summed over all pairs, the expected drift per token is the window integrated against the cross-correlation of the two
spike trains (Kempter, Gerstner & van Hemmen 1999, eq. 6); with exponential windows, two running traces give it:

    drift[i, j] = potentiation * mean S_i[t] * p_j[t]  -  depression * mean s_j[t] * q_i[t-1]
    p_j[t] = exp(-1 / potentiation_tau) * p_j[t-1] + s_j[t]     (pre trace, this token included)
    q_i[t] = exp(-1 / depression_tau) * q_i[t-1] + S_i[t]       (post trace)

A pre spike of the same token counts as earlier: its current is what the post-synaptic neuron integrates in that step.

Shapes: L token, B batch, N post-synaptic neuron, I pre-synaptic neuron (axonal delays already applied).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import torch
from torch import Tensor

from spikemesh.snn.functional import leaky_integral


@dataclass(frozen=True)
class StdpWindow:
    """Amplitudes (dimensionless) and time constants (tokens) of the two exponential halves.

    The default depresses slightly more than it potentiates in total, 1.02 to 1 (1.05 in Song, Miller & Abbott 2000):
    uncorrelated activity alone weakens a synapse.
    """

    potentiation: float = 1.0
    potentiation_tau: float = 4.0
    depression_tau: float = 4.0
    depression_ratio: float = 1.02

    @property
    def potentiation_leak(self) -> float:
        return _decay(self.potentiation_tau)

    @property
    def depression_leak(self) -> float:
        return _decay(self.depression_tau)

    @property
    def depression(self) -> float:
        """The amplitude that makes the summed depression `depression_ratio` times the summed potentiation."""
        potentiated = self.potentiation / (1 - self.potentiation_leak)
        return self.depression_ratio * potentiated * (1 - self.depression_leak)


def _decay(tau: float) -> float:
    """exp(-1 / tau), rounded correctly, which the system's exponential need not be."""
    return float((-1 / Decimal(tau)).exp())


def pre_trace(spikes: Tensor, window: StdpWindow) -> Tensor:
    """p[t] of every pre-synaptic neuron, spikes [L, B, I] -> [L, B, I]."""
    return _trace(spikes, window.potentiation_leak)


def post_trace_before(spikes: Tensor, window: StdpWindow) -> Tensor:
    """q[t-1] of every post-synaptic neuron, spikes [L, B, N] -> [L, B, N]; zero at the first token."""
    trace = _trace(spikes, window.depression_leak)
    return torch.cat([torch.zeros_like(trace[:1]), trace[:-1]])


def stdp_drift(pre: Tensor, post: Tensor, window: StdpWindow) -> Tensor:
    """Expected drift per token of every pair: pre [L, B, I], post [L, B, N] -> [N, I]."""
    num_samples = post.shape[0] * post.shape[1]
    causal = post.flatten(0, 1).T @ pre_trace(pre, window).flatten(0, 1)
    anticausal = post_trace_before(post, window).flatten(0, 1).T @ pre.flatten(0, 1)
    return (window.potentiation * causal - window.depression * anticausal) / num_samples


def neuron_drift(pre_sum: Tensor, pre_trace_sum: Tensor, post: Tensor, window: StdpWindow) -> Tensor:
    """Expected drift summed over a neuron's synapses: the row sums of mask * `stdp_drift` -> [N].

    The drift is linear in the pre-synaptic trains, so it needs only their sums over each neuron's synapses,
    `pre_sum` = mask s and `pre_trace_sum` = mask p, both [L, B, N].
    """
    causal = (post * pre_trace_sum).mean((0, 1))
    anticausal = (post_trace_before(post, window) * pre_sum).mean((0, 1))
    return window.potentiation * causal - window.depression * anticausal


def _trace(spikes: Tensor, leak: float) -> Tensor:
    start = torch.zeros_like(spikes[0])
    return leaky_integral(spikes, start, torch.full_like(start[0], leak))
