"""Spiking neurons as pure functions of values: no module, no hidden state.

Shapes: L token (the time axis: one step per token), B batch, N neuron. Activations are [L, B, N], lying as `memory`
says. Leaks are per step and dimensionless; potentials share the unit of the currents.

What is different here: the forward and backward loops over tokens are written by hand. Autograd over `x[t]` allocates
a full-size gradient for every step, which makes the backward pass quadratic in L. On a CPU compiled kernels do the same
in one pass (`compiled`), on a GPU one of Triton's (`triton_lif`), and the loops below are what both are held against.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from spikemesh.snn.compiled import CompiledLif, has_kernels


def lif_step(x: Tensor, v: Tensor, leak: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """One step of leaky integrate-and-fire with a hard reset to zero.

        u[t] = leak * v[t-1] + x[t]
        s[t] = 1 if u[t] >= threshold else 0
        v[t] = u[t] * (1 - s[t])

    `x`, `v` are [B, N]; `leak`, `threshold` are [N]. Returns the spikes s and the potential v after the reset.
    """
    u = torch.addcmul(x, leak, v)
    s = (u >= threshold).to(u.dtype)
    return s, torch.addcmul(u, u, s, value=-1)


def arctan_surrogate(distance: Tensor, sharpness: float) -> Tensor:
    """What the backward pass takes for ds/du, as a function of u - threshold (Fang et al. 2021, arctangent).

    ds/du = (sharpness / 2) / (1 + (pi / 2 * sharpness * (u - threshold))**2)
    """
    return distance.mul(math.pi / 2 * sharpness).square_().add_(1.0).reciprocal_().mul_(sharpness / 2)


class _Lif(torch.autograd.Function):
    """`lif` with its gradient. The reset is a constant in the backward pass (Zenke & Vogels 2021):

    g[t] = ds[t] * surrogate(u[t] - threshold) + leak * (1 - s[t]) * g[t+1]
    dx[t] = g[t];  dleak = sum g[t] * v[t-1];  dthreshold = - sum ds[t] * surrogate(u[t] - threshold)
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v0: Tensor, leak: Tensor, threshold: Tensor, sharpness: float
    ) -> tuple[Tensor, Tensor]:
        potentials, spikes = torch.empty_like(x), torch.empty_like(x)
        v = v0.clone()
        for x_t, u_t, s_t in zip(x.unbind(), potentials.unbind(), spikes.unbind(), strict=True):
            torch.addcmul(x_t, leak, v, out=u_t)
            torch.ge(u_t, threshold, out=s_t)
            torch.addcmul(u_t, u_t, s_t, value=-1, out=v)
        ctx.save_for_backward(potentials, spikes, v0, leak, threshold)
        ctx.sharpness = sharpness
        return spikes, v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        grad_spikes, grad_v = grads
        potentials, spikes, v0, leak, threshold = ctx.saved_tensors
        direct = arctan_surrogate(potentials - threshold, ctx.sharpness).mul_(grad_spikes)
        grad_threshold = -direct.sum((0, 1))
        silent = 1.0 - spikes
        carry = grad_v
        for g_t, silent_t in zip(reversed(direct.unbind()), reversed(silent.unbind()), strict=True):
            g_t.addcmul_(silent_t, carry)
            carry = leak * g_t
        before = torch.cat([v0.unsqueeze(0), potentials * silent])[:-1]
        grad_leak = before.mul_(direct).sum((0, 1))
        return direct, carry, grad_leak, grad_threshold, None


def lif(x: Tensor, v0: Tensor | None, leak: Tensor, threshold: Tensor, sharpness: float = 2.0) -> tuple[Tensor, Tensor]:
    """`lif_step` along the token axis: currents x [L, B, N] -> (spikes [L, B, N], last potential [B, N]).

    `v0` [B, N] is the potential carried in, zero if None; `leak`, `threshold` are [N]. The gradient uses
    `arctan_surrogate` for the spike and takes the reset as a constant. Spikes have the type of the currents, which may
    be of half precision; potentials and parameters are float32 then.
    """
    if v0 is None:
        if has_kernels(x):
            spikes, v = CompiledLif.apply(x, None, leak, threshold, sharpness)  # type: ignore[no-untyped-call]
            return spikes, v
        v0 = x.new_zeros(x.shape[1:], dtype=leak.dtype)
    fused = _fused(x, v0)
    if fused is not None:
        spikes, v = fused.apply(x, v0, leak, threshold, sharpness)
    else:
        spikes, v = _Lif.apply(x.to(v0.dtype), v0, leak, threshold, sharpness)  # type: ignore[no-untyped-call]
    return spikes.to(x.dtype), v


def _fused(x: Tensor, v0: Tensor) -> Any:
    """What can work on these currents and potentials, with or without spikes; None: a loop in torch."""
    if has_kernels(x) and has_kernels(v0):
        return CompiledLif
    if x.is_cuda and v0.dtype == torch.float32 and _has_triton():
        from spikemesh.snn.triton_lif import TritonLif

        return TritonLif
    return None


@cache
def _has_triton() -> bool:
    """torch's builds for CUDA bring it along on Linux."""
    return find_spec("triton") is not None


class _Leaky(torch.autograd.Function):
    """`leaky_integral` with its gradient: g[t] = dy[t] + leak * g[t+1]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y0: Tensor, leak: Tensor) -> Tensor:
        y = torch.empty_like(x)
        last = y0
        for x_t, y_t in zip(x.unbind(), y.unbind(), strict=True):
            torch.addcmul(x_t, leak, last, out=y_t)
            last = y_t
        ctx.save_for_backward(y, y0, leak)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, y0, leak = ctx.saved_tensors
        grad = grads[0].clone()
        later = torch.zeros_like(y0)
        for g_t in reversed(grad.unbind()):
            later = g_t.addcmul_(leak, later)
        before = torch.cat([y0.unsqueeze(0), y])[:-1]
        return grad, leak * later, before.mul_(grad).sum((0, 1))


def leaky_integral(x: Tensor, y0: Tensor, leak: Tensor) -> Tensor:
    """A membrane that never spikes: y[t] = leak * y[t-1] + x[t], x [L, B, N] -> y [L, B, N]; y0 [B, N] is y[-1].

    Potentials have the type of `y0`.
    """
    x = x.to(y0.dtype)
    fused = _fused(x, y0)
    if fused is not None:
        y, _ = fused.apply(x, y0, leak, None, 0.0)
    else:
        y = _Leaky.apply(x, y0, leak)  # type: ignore[no-untyped-call]
    return y  # type: ignore[no-any-return]
