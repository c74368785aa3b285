"""Spikes as bits between layers, where compiled kernels make and read them: 1/32 of the memory of floats.

Shapes: L token (time), B batch, N neuron.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spikemesh.kernels import count_spikes, delay_spikes, num_bit_bytes, unpack_spikes
from spikemesh.snn.memory import empty_feature_major, feature_major


@dataclass(frozen=True, eq=False)
class PackedSpikes:
    """A population's spikes [L, B, N].

    Autograd hangs gradients on float tensors, so a `carrier` [L, B, N] goes along. It has the memory of one element,
    NaN, as nobody may read it; its gradient is that of the spikes.
    """

    bits: Tensor
    """uint8, see `kernels.spiking.spikes`; the tokens are those of all batch rows, step by step."""
    carrier: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        length, batch, neurons = self.carrier.shape
        return length, batch, neurons

    @property
    def rate(self) -> float:
        """Spikes per neuron and token."""
        return count_spikes(self.bits.numpy()) / max(1, self.carrier.numel())

    def last(self, num_steps: int) -> Tensor:
        """Zeros and ones of the last steps [num_steps, B, N], feature-major."""
        spikes: Tensor = _Last.apply(self.carrier, self.bits, num_steps)  # type: ignore[no-untyped-call]
        return spikes

    def unpacked(self) -> Tensor:
        """Zeros and ones [L, B, N], feature-major."""
        return self.last(self.shape[0])

    def delayed(self, bounds: Sequence[int]) -> PackedSpikes:
        """The neurons bounds[k]..bounds[k+1]-1 are k tokens late, after silence."""
        carrier, bits = _Delayed.apply(self.carrier, self.bits, bounds)  # type: ignore[no-untyped-call]
        return PackedSpikes(bits, carrier)


def room_for_bits(shape: tuple[int, int, int]) -> Tensor:
    length, batch, neurons = shape
    return torch.empty(num_bit_bytes(neurons, length * batch), dtype=torch.uint8)


def carrier_of(shape: tuple[int, int, int]) -> Tensor:
    return torch.full((), float("nan")).expand(shape)


def side_by_side(populations: Sequence[PackedSpikes]) -> Tensor:
    """The bits of several populations as those of one."""
    if len(populations) == 1:
        return populations[0].bits
    sizes = [spikes.shape[2] for spikes in populations]
    blocks = [spikes.bits.view(-1, size, 32) for spikes, size in zip(populations, sizes, strict=True)]
    return torch.cat(blocks, 1).view(-1)


class _Last(torch.autograd.Function):
    """`PackedSpikes.last`: the gradient of the steps that are not asked for is zero."""

    @staticmethod
    def forward(ctx: Any, carrier: Tensor, bits: Tensor, num_steps: int) -> Tensor:
        length, batch, neurons = ctx.shape = carrier.shape
        spikes = empty_feature_major((num_steps, batch, neurons), carrier)
        room = spikes.permute(2, 0, 1).numpy()
        unpack_spikes(bits.numpy(), neurons, length * batch, (length - num_steps) * batch, room)
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        full = feature_major(grad.new_zeros(ctx.shape))
        full[len(full) - len(grad) :] = grad
        return full, None, None


class _Delayed(torch.autograd.Function):
    """`PackedSpikes.delayed`: bits shifted one way, the gradient the other."""

    @staticmethod
    def forward(ctx: Any, carrier: Tensor, bits: Tensor, bounds: Sequence[int]) -> tuple[Tensor, Tensor]:
        length, batch, _ = carrier.shape
        ctx.bounds, late = bounds, torch.empty_like(bits)
        delays = np.repeat(np.arange(len(bounds) - 1) * batch, np.diff(bounds))
        delay_spikes(bits.numpy(), delays, length * batch, late.numpy())
        ctx.mark_non_differentiable(late)
        return carrier_of((length, batch, len(delays))), late

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _grad_bits: None) -> tuple[Tensor, None, None]:
        back = torch.empty_like(grad)
        for k, (start, stop) in enumerate(pairwise(ctx.bounds)):
            late = min(k, len(grad))
            back[: len(grad) - late, :, start:stop] = grad[late:, :, start:stop]
            back[len(grad) - late :, :, start:stop] = 0
        return back, None, None
