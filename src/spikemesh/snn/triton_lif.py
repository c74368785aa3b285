"""The neurons of `functional` as one kernel on a GPU (Triton): currents are read once, membranes stay in registers.

What is different here: backward keeps nothing but the currents and runs the neurons again. Their potentials go where
the gradient of the currents will be, which then overwrites them from the last step to the first. Currents and spikes
may be bfloat16 or float16; potentials, parameters and sums are float32.

Unmeasured: this has run in Triton's interpreter only, on no GPU yet.

Shapes: L token (time), B batch, N neuron; a *lane* is one neuron in one batch row. Arrays are contiguous.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

NUM_LANES = 128
"""Of one program: few, so that a small batch is spread over a whole GPU too."""


@triton.jit  # type: ignore[untyped-decorator]
def _forward(
    x: Any,
    v0: Any,
    leak: Any,
    threshold: Any,
    y: Any,
    v_last: Any,
    num_steps: Any,
    num_lanes: Any,
    num_neurons: Any,
    fires: tl.constexpr,
    size: tl.constexpr,
) -> None:
    lane = tl.program_id(0) * size + tl.arange(0, size)
    inside = lane < num_lanes
    decay = tl.load(leak + lane % num_neurons)
    limit = tl.load(threshold + lane % num_neurons)
    v = tl.load(v0 + lane, mask=inside, other=0.0)
    x += lane
    y += lane
    for _ in range(num_steps):
        v = tl.load(x, mask=inside, other=0.0).to(tl.float32) + decay * v
        if fires:
            tl.store(y, tl.where(v >= limit, 1.0, 0.0), mask=inside)
            v = tl.where(v >= limit, 0.0, v)
        else:
            tl.store(y, v, mask=inside)
        x += num_lanes
        y += num_lanes
    tl.store(v_last + lane, v, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _backward(
    x: Any,
    v0: Any,
    leak: Any,
    threshold: Any,
    grad_y: Any,
    grad_v: Any,
    potentials: Any,
    grad_x: Any,
    grad_v0: Any,
    grad_leak: Any,
    grad_threshold: Any,
    slope: Any,
    height: Any,
    num_steps: Any,
    num_lanes: Any,
    num_neurons: Any,
    fires: tl.constexpr,
    size: tl.constexpr,
) -> None:
    """`grad_leak` and `grad_threshold` are of each lane; `potentials` may be the memory of `grad_x`."""
    lane = tl.program_id(0) * size + tl.arange(0, size)
    inside = lane < num_lanes
    decay = tl.load(leak + lane % num_neurons)
    limit = tl.load(threshold + lane % num_neurons)
    start = tl.load(v0 + lane, mask=inside, other=0.0)
    x += lane
    potentials += lane
    grad_y += lane
    grad_x += lane
    u = start
    v = start
    for _ in range(num_steps):
        u = tl.load(x, mask=inside, other=0.0).to(tl.float32) + decay * v
        tl.store(potentials, u, mask=inside)
        v = tl.where(u >= limit, 0.0, u) if fires else u
        x += num_lanes
        potentials += num_lanes
        grad_y += num_lanes
        grad_x += num_lanes
    tl.debug_barrier()  # what one thread has written, another may read

    carry = tl.load(grad_v + lane, mask=inside, other=0.0)
    sum_leak = tl.full((size,), 0.0, tl.float32)
    sum_threshold = tl.full((size,), 0.0, tl.float32)
    potentials -= num_lanes
    for step in range(num_steps):
        grad_y -= num_lanes
        grad_x -= num_lanes
        potentials -= num_lanes
        is_later = inside & (tl.full((size,), 1, tl.int32) + step < num_steps)
        earlier = tl.load(potentials, mask=is_later, other=0.0)
        before = tl.where(earlier >= limit, 0.0, earlier) if fires else earlier
        before = tl.where(is_later, before, start)
        g = tl.load(grad_y, mask=inside, other=0.0).to(tl.float32)
        if fires:
            distance = (u - limit) * slope
            g = g * (height / (1.0 + distance * distance))
            sum_threshold -= g
            g += tl.where(u >= limit, 0.0, carry)
        else:
            g += carry
        sum_leak += g * before
        carry = decay * g
        tl.store(grad_x, g, mask=inside)
        u = earlier
    tl.store(grad_v0 + lane, carry, mask=inside)
    tl.store(grad_leak + lane, sum_leak, mask=inside)
    tl.store(grad_threshold + lane, sum_threshold, mask=inside)


class TritonLif(torch.autograd.Function):
    """`functional.lif`; without a threshold `functional.leaky_integral`, whose potentials stand for the spikes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v0: Tensor, leak: Tensor, threshold: Tensor | None, sharpness: float
    ) -> tuple[Tensor, Tensor]:
        x, v0, leak = x.contiguous(), v0.contiguous(), leak.contiguous()
        limit = leak if threshold is None else threshold.contiguous()  # without one it is loaded, and not used
        y, v = torch.empty_like(x), torch.empty_like(v0)
        if v0.numel() > 0:
            sizes = (len(x), v0.numel(), v0.shape[1])
            _forward[_grid(v0)](x, v0, leak, limit, y, v, *sizes, threshold is not None, NUM_LANES)
        ctx.save_for_backward(x, v0, leak, limit)
        ctx.fires, ctx.sharpness = threshold is not None, sharpness
        return y, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_v: Tensor) -> tuple[Tensor | None, ...]:
        x, v0, leak, limit = ctx.saved_tensors
        grad_x, grad_v0, lane_leak, lane_limit = (torch.zeros_like(like) for like in (x, v0, v0, v0))
        if v0.numel() > 0:
            potentials = grad_x if grad_x.dtype == v0.dtype else torch.empty_like(x, dtype=v0.dtype)
            arrays = (x, v0, leak, limit, grad_y.contiguous(), grad_v.contiguous(), potentials)
            slope, height = math.pi / 2 * ctx.sharpness, ctx.sharpness / 2
            sizes = (len(x), v0.numel(), v0.shape[1])
            _backward[_grid(v0)](
                *arrays, grad_x, grad_v0, lane_leak, lane_limit, slope, height, *sizes, ctx.fires, NUM_LANES
            )
        return grad_x, grad_v0, lane_leak.sum(0), lane_limit.sum(0) if ctx.fires else None, None


def _grid(v0: Tensor) -> tuple[int]:
    return (triton.cdiv(v0.numel(), NUM_LANES),)
