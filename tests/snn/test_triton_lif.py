"""The GPU's neurons in Triton's interpreter, on a CPU, against the loops in torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from spikemesh.snn.functional import _Leaky, _Lif

SHARPNESS = 1.3


@pytest.fixture(scope="module")
def kernel() -> Any:
    """`TritonLif`, interpreted: Triton decides that when it reads the kernels."""
    pytest.importorskip("triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        from spikemesh.snn.triton_lif import TritonLif
    return TritonLif


def inputs(shape: tuple[int, int, int], dtype: torch.dtype) -> list[Tensor]:
    """Currents and leaks are small binary fractions, so that nothing is rounded before a threshold."""
    length, batch, neurons = shape
    random = torch.Generator().manual_seed(sum(shape))

    def quarters(*size: int, low: int, high: int) -> Tensor:
        return torch.randint(low, high, size, generator=random).float() / 4

    x = quarters(length, batch, neurons, low=-4, high=7).to(dtype)
    v0, leak = quarters(batch, neurons, low=-3, high=9), quarters(neurons, low=0, high=4)
    return [x, v0, leak, quarters(neurons, low=1, high=6)]


def run(loop: Any, leaves: list[Tensor], *options: object) -> list[Tensor]:
    """Outputs, and gradients of all leaves."""
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    made = loop.apply(*leaves, *options)
    outputs = made if isinstance(made, tuple) else (made, made[-1])
    random = torch.Generator().manual_seed(1)
    weights = [torch.randn(part.shape, generator=random).bfloat16().float() for part in outputs]
    sum((part.float() * weight).sum() for part, weight in zip(outputs, weights, strict=True)).backward()
    return [part.detach() for part in outputs] + [leaf.grad for leaf in leaves if leaf.grad is not None]


SHAPES = [(1, 1, 1), (2, 3, 5), (7, 4, 32), (5, 3, 127), (4, 2, 64), (6, 13, 21)]


@pytest.mark.parametrize("shape", SHAPES)
def test_neurons_are_those_of_the_loop(kernel: Any, shape: tuple[int, int, int]) -> None:
    leaves = inputs(shape, torch.float32)
    ours, theirs = run(kernel, leaves, SHARPNESS), run(_Lif, leaves, SHARPNESS)
    assert len(ours) == len(theirs) == 6
    for one, other in zip(ours[:2], theirs[:2], strict=True):
        assert torch.equal(one, other)
    for one, other in zip(ours[2:], theirs[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    if shape[0] > 4:
        assert 0.1 < ours[0].mean() < 0.9


@pytest.mark.parametrize("shape", SHAPES)
def test_membranes_that_never_spike_are_those_of_the_loop(kernel: Any, shape: tuple[int, int, int]) -> None:
    leaves = inputs(shape, torch.float32)[:3]
    for one, other in zip(run(kernel, leaves, None, 0.0), run(_Leaky, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fires", [True, False])
def test_no_step_is_no_change(kernel: Any, fires: bool) -> None:
    leaves = inputs((0, 3, 5), torch.float32)
    y, v, _, grad_v0, *others = run(kernel, leaves if fires else leaves[:3], *([] if fires else [None]), SHARPNESS)
    assert y.shape == (0, 3, 5) and torch.equal(v, leaves[1]) and bool(grad_v0.any())
    assert not any(grad.any() for grad in others)


def test_half_precision_is_for_currents_and_spikes_only(kernel: Any) -> None:
    """Quarters are exact in bfloat16, so potentials and gradients of parameters are those of float32."""
    leaves = inputs((6, 4, 33), torch.bfloat16)
    spikes, v, grad_x, *grads = run(kernel, leaves, SHARPNESS)
    leaves[0] = leaves[0].float()
    expected, expected_v, expected_grad_x, *expected_grads = run(_Lif, leaves, SHARPNESS)
    assert spikes.dtype == grad_x.dtype == torch.bfloat16 and v.dtype == torch.float32
    assert torch.equal(spikes.float(), expected) and torch.equal(v, expected_v)
    torch.testing.assert_close(grad_x.float(), expected_grad_x, rtol=1e-2, atol=1e-2)
    for one, other in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
