"""The hand-written loops are the difference equations, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from spikemesh.snn import arctan_surrogate, leaky_integral, lif, lif_step

SHARPNESS = 1.3


class _SurrogateStep(torch.autograd.Function):
    """The spike with its surrogate, and nothing else by hand."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor) -> Tensor:
        ctx.save_for_backward(distance)
        return (distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (distance,) = ctx.saved_tensors
        return grads[0] * arctan_surrogate(distance, SHARPNESS)


def naive_lif(x: Tensor, v: Tensor, leak: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    spikes = []
    for x_t in x:
        u = leak * v + x_t
        s = _SurrogateStep.apply(u - threshold)
        spikes.append(s)
        v = u * (1 - s.detach())
    return torch.stack(spikes), v


def inputs(seed: int, length: int = 23) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = ((length, 3, 5), (3, 5), (5,), (5,))
    x, v, leak, threshold = (torch.rand(s, generator=g, dtype=torch.float64) for s in shapes)
    return [t.requires_grad_() for t in (2 * x - 0.4, v, leak, threshold + 0.4)]


@pytest.mark.parametrize("seed", range(4))
def test_lif_and_its_gradient_equal_plain_autograd_on_the_naive_loop(seed: int) -> None:
    ours, naive = inputs(seed), [t.detach().clone().requires_grad_() for t in inputs(seed)]
    results = lif(*ours, SHARPNESS), naive_lif(*naive)
    weights = torch.rand(results[0][0].shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    for (s, v), leaves in zip(results, (ours, naive), strict=True):
        ((s * weights).sum() + (v * weights[0]).sum()).backward()
        assert all(leaf.grad is not None and bool((leaf.grad != 0).any()) for leaf in leaves)
    assert torch.equal(results[0][0], results[1][0])
    assert 0.1 < float(results[0][0].detach().mean()) < 0.9
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0, atol=1e-12)
    for a, b in zip(ours, naive, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neurons_start_at_rest(dtype: torch.dtype) -> None:
    results = []
    for start in (None, torch.zeros(3, 5, dtype=dtype)):
        x, _, leak, threshold = (values.detach().to(dtype).requires_grad_() for values in inputs(2))
        spikes, v = lif(x, start, leak, threshold)
        spikes.sum().backward()
        results.append([spikes, v, x.grad, leak.grad, threshold.grad])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_lif_is_lif_step_repeated() -> None:
    x, v, leak, threshold = (t.detach() for t in inputs(7))
    spikes, last = lif(x, v, leak, threshold)
    for t in range(len(x)):
        s, v = lif_step(x[t], v, leak, threshold)
        assert torch.equal(s, spikes[t])
    assert torch.equal(v, last)


def test_a_spike_resets_to_exactly_zero_and_silence_leaks() -> None:
    one, leak = torch.ones(1), torch.tensor([0.5])
    x = torch.tensor([[[0.75]], [[0.75]], [[0.5]]])
    spikes, v = lif(x, torch.zeros(1, 1), leak, one)
    assert spikes.flatten().tolist() == [0.0, 1.0, 0.0]  # 0.75; 0.375 + 0.75 = 1.125 fires; 0 + 0.5
    assert v.item() == 0.5


def test_the_spike_threshold_itself_fires() -> None:
    spikes, v = lif(torch.ones(1, 1, 1), torch.zeros(1, 1), torch.zeros(1), torch.ones(1))
    assert spikes.item() == 1.0 and v.item() == 0.0


def test_backward_twice_gives_the_same_gradient() -> None:
    x, v, leak, threshold = inputs(2)
    spikes, _ = lif(x, v, leak, threshold)
    first = torch.autograd.grad(spikes.sum(), (x, leak), retain_graph=True)
    second = torch.autograd.grad(spikes.sum(), (x, leak))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_surrogate_is_the_slope_of_the_arctangent_step() -> None:
    distance = torch.linspace(-3, 3, 41, dtype=torch.float64, requires_grad=True)
    step = torch.atan(torch.pi / 2 * SHARPNESS * distance) / torch.pi + 0.5
    (slope,) = torch.autograd.grad(step.sum(), distance)
    torch.testing.assert_close(arctan_surrogate(distance.detach(), SHARPNESS), slope)


def test_leaky_integral_and_its_gradient() -> None:
    x, y0, leak, _ = inputs(1, length=6)
    assert torch.autograd.gradcheck(leaky_integral, (x, y0, leak))
    y = y0
    for x_t, y_t in zip(x, leaky_integral(x, y0, leak), strict=True):
        y = leak * y + x_t
        torch.testing.assert_close(y, y_t)
