"""The two running traces give the sum over all spike pairs."""

from __future__ import annotations

import math

import torch

from spikemesh.snn import StdpWindow, neuron_drift, stdp_drift
from spikemesh.snn.plasticity import pre_trace

WINDOW = StdpWindow(potentiation=0.7, potentiation_tau=3.0, depression_tau=5.0, depression_ratio=1.1)


def trains(seed: int, num_neurons: int, length: int = 20) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(length, 2, num_neurons, generator=g) < 0.3).double()


def pair_drift(pre: torch.Tensor, post: torch.Tensor) -> float:
    """Every pair of one pre and one post train [L], by the window of the docstring."""
    total = 0.0
    for t_pre in pre.nonzero().flatten().tolist():
        for t_post in post.nonzero().flatten().tolist():
            d = t_post - t_pre
            if d >= 0:
                total += WINDOW.potentiation * math.exp(-d / WINDOW.potentiation_tau)
            else:
                total -= WINDOW.depression * math.exp((d + 1) / WINDOW.depression_tau)
    return total


def test_drift_is_the_window_summed_over_all_pairs() -> None:
    pre, post = trains(1, 4), trains(2, 3)
    drift = stdp_drift(pre, post, WINDOW)
    for i in range(3):
        for j in range(4):
            expected = sum(pair_drift(pre[:, b, j], post[:, b, i]) for b in range(2)) / (20 * 2)
            assert math.isclose(drift[i, j].item(), expected, rel_tol=1e-9, abs_tol=1e-12)


def test_neuron_drift_is_the_row_sum_over_the_mask() -> None:
    pre, post = trains(3, 6), trains(4, 5)
    mask = trains(5, 6, length=5)[:, 0]
    by_neuron = neuron_drift(pre @ mask.T, pre_trace(pre, WINDOW) @ mask.T, post, WINDOW)
    torch.testing.assert_close(by_neuron, (stdp_drift(pre, post, WINDOW) * mask).sum(1))


def test_causal_pairs_potentiate_and_the_reverse_depresses() -> None:
    pre, post = torch.zeros(4, 1, 1), torch.zeros(4, 1, 1)
    pre[1], post[2] = 1.0, 1.0
    assert stdp_drift(pre, post, WINDOW).item() > 0
    assert stdp_drift(post, pre, WINDOW).item() < 0
    assert stdp_drift(pre, pre, WINDOW).item() > 0, "a pre spike of the same token counts as earlier"


def test_uncorrelated_trains_depress_by_the_ratio() -> None:
    g = torch.Generator().manual_seed(8)
    pre, post = ((torch.rand(4000, 20, 1, generator=g) < 0.2).double() for _ in range(2))
    window = StdpWindow(depression_ratio=1.5)
    area = window.potentiation / (1 - window.potentiation_leak)
    expected = (1 - 1.5) * area * float(pre.mean() * post.mean())
    assert math.isclose(stdp_drift(pre, post, window).item(), expected, rel_tol=0.05)
