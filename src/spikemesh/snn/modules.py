"""Thin modules around `functional`: they hold parameters, never state. State goes in and comes out of `forward`.

Shapes: L token (time), B batch, N neuron, I input, S synapse. Activations are [L, B, N], lying as `memory` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spikemesh.kernels import Pattern, draw_columns
from spikemesh.snn.compiled import PackingLif, SparseProduct, has_kernels, pack_parts
from spikemesh.snn.config import balanced_fan_in
from spikemesh.snn.functional import leaky_integral, lif
from spikemesh.snn.memory import join
from spikemesh.snn.packed import PackedSpikes, side_by_side

Spikes = Tensor | PackedSpikes
"""Of one population, [L, B, N]: zeros and ones, or bits."""


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

    def forward(self, x: Tensor, v: Tensor | None = None, *, packed: bool = False) -> tuple[Spikes, Tensor]:
        """Currents x [L, B, N], potential v [B, N] -> (spikes [L, B, N], as bits if `packed`, potential [B, N]).

        Without `v` the neurons start at rest.
        """
        neurons = (torch.sigmoid(self.leak_logit), self.threshold, self.sharpness)
        if not packed:
            return lif(x, v, *neurons)
        v = self.initial_state(x.shape[1]) if v is None else v
        carrier, bits, v = PackingLif.apply(x, v, *neurons)  # type: ignore[no-untyped-call]
        return PackedSpikes(bits, carrier), v


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

    def forward(self, *populations: Tensor) -> Tensor:
        """Spikes [L, B, I], in one tensor or side by side in several -> currents [L, B, N]."""
        return F.linear(join(populations), self.weight * self.mask)

    def full(self, values: Tensor) -> Tensor:
        """Values that lie like `weight`, as a matrix [N, I] with zeros where there is no synapse."""
        return values * self.mask

    def synaptic(self, values: Tensor) -> Tensor:
        """Values that lie like `weight`, those of the synapses only [S], row-major."""
        return values[self.mask]

    def laid(self, synapses: Tensor) -> Tensor:
        """The inverse of `synaptic`; zeros where there is no synapse."""
        return synapses.new_zeros(self.shape).masked_scatter_(self.mask, synapses)

    def to_sparse(self) -> SparseLinear:
        layer = SparseLinear(self.mask.numpy())
        with torch.no_grad():
            layer.weight.copy_(self.synaptic(self.weight))
        return layer

    @property
    def shape(self) -> tuple[int, int]:
        return self.mask.shape[0], self.mask.shape[1]

    @property
    def num_alive(self) -> int:
        return int(self.mask.sum())

    @property
    def fan_in(self) -> int:
        """Synapses per neuron; masks made by `balanced_mask` have the same number in every row."""
        return self.num_alive // self.mask.shape[0]


class SparseLinear(nn.Module):
    """`MaskedLinear` with nothing kept but its synapses: `weight` is [S], in row-major order of the mask's ones.

    So are its gradient and an optimiser's moments, and no masked weight is there to be multiplied. On a CPU it runs in
    compiled code (`compiled.SparseProduct`); elsewhere, and in other precisions, it multiplies by the full matrix.
    """

    starts: Tensor
    columns: Tensor

    def __init__(self, mask: npt.NDArray[np.bool_]) -> None:
        super().__init__()
        self.shape: tuple[int, int] = (mask.shape[0], mask.shape[1])
        pattern = Pattern.of(mask)
        self.register_buffer("starts", torch.from_numpy(pattern.starts))
        self.register_buffer("columns", torch.from_numpy(pattern.columns))
        self.weight = nn.Parameter(torch.zeros(pattern.num_synapses))
        self._pattern: tuple[Any, Pattern] = (self._place(), pattern)

    def forward(self, *populations: Spikes) -> Tensor:
        """As `MaskedLinear.forward`; the spikes may be packed."""
        packed = [spikes for spikes in populations if isinstance(spikes, PackedSpikes)]
        plain = [spikes for spikes in populations if isinstance(spikes, Tensor)]
        if packed and plain:
            raise ValueError("expected spikes that are all packed, or none")
        if packed:
            return self._product(side_by_side(packed), [spikes.carrier for spikes in packed])
        if has_kernels(self.weight) and all(has_kernels(spikes) for spikes in plain):
            return self._product(pack_parts(self.pattern, plain), plain)
        return F.linear(join(plain), self.full(self.weight))

    def _product(self, bits: Tensor | None, parts: list[Tensor]) -> Tensor:
        y: Tensor = SparseProduct.apply(self.pattern, self.weight, bits, *parts)  # type: ignore[no-untyped-call]
        return y

    @property
    def pattern(self) -> Pattern:
        """Where the synapses are; made anew when the buffers have been written to, as `load_state_dict` does."""
        place, pattern = self._pattern
        if place != self._place():
            starts, columns = self.starts.cpu().numpy().copy(), self.columns.cpu().numpy().copy()
            pattern = Pattern(starts, columns, self.shape[1])
            self._pattern = (self._place(), pattern)
        return pattern

    def _place(self) -> tuple[int, ...]:
        """Changes whenever the buffers do."""
        return tuple(n for part in (self.starts, self.columns) for n in (part.data_ptr(), part._version))

    def full(self, values: Tensor) -> Tensor:
        """As `MaskedLinear.full`."""
        pattern = self.pattern
        place = torch.from_numpy(pattern.rows() * self.shape[1] + pattern.columns).to(values.device)
        return values.new_zeros(self.shape[0] * self.shape[1]).scatter(0, place, values).view(self.shape)

    def synaptic(self, values: Tensor) -> Tensor:
        """As `MaskedLinear.synaptic`: here they lie so."""
        return values

    def laid(self, synapses: Tensor) -> Tensor:
        return synapses.clone()

    def to_dense(self) -> MaskedLinear:
        layer = MaskedLinear(self.pattern.mask())
        with torch.no_grad():
            layer.weight.copy_(self.full(self.weight))
        return layer

    @property
    def mask(self) -> Tensor:
        """[N, I], True where a synapse is; made when asked for."""
        return torch.from_numpy(self.pattern.mask())

    @property
    def num_alive(self) -> int:
        return self.weight.numel()

    @property
    def fan_in(self) -> int:
        """Synapses per neuron; masks made by `balanced_mask` have the same number in every row."""
        return self.num_alive // self.shape[0]


AnyLinear = MaskedLinear | SparseLinear
"""A weight matrix in either form. `full`, `synaptic` and `laid` translate whatever lies like its weights."""


def balanced_mask(
    num_outputs: int, num_inputs: int, density: float, *, seed: int = 0, name: str = ""
) -> npt.NDArray[np.bool_]:
    """A random mask [N, I] with the same number of ones in every row: that of the tensor `name` in a run's start.

    Balanced rows give every neuron the same fan-in, so one scale of the weights suits all of them.
    """
    fan_in = balanced_fan_in(num_inputs, density)
    chosen = draw_columns(seed, name, range(num_outputs), num_columns=num_inputs, fan_in=fan_in)
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

    def forward(self, spikes: Spikes, sent: Tensor) -> tuple[Spikes, Tensor]:
        """Spikes [L, B, N], the last ones before them `sent` [num_delays - 1, B, N] -> (arriving [L, B, N], sent)."""
        if self.num_delays == 1:
            return spikes, sent
        if isinstance(spikes, PackedSpikes):
            if not (sent.requires_grad or sent.any()):
                last = spikes.last(min(spikes.shape[0], self.num_delays - 1))
                return spikes.delayed(self.bounds), torch.cat([sent[len(last) :], last])
            spikes = spikes.unpacked()
        arriving, sent = _Delay.apply(spikes, sent, self.bounds)  # type: ignore[no-untyped-call]
        return arriving, sent


class _Delay(torch.autograd.Function):
    """`AxonDelay`: each group of neurons shifted, and shifted back. Autograd on slices would add up full tensors."""

    @staticmethod
    def forward(ctx: Any, spikes: Tensor, sent: Tensor, bounds: list[int]) -> tuple[Tensor, Tensor]:
        arriving = torch.empty_like(spikes)
        for k, group in _groups(bounds):
            late = min(k, len(spikes))
            arriving[late:, :, group] = spikes[: len(spikes) - late, :, group]
            arriving[:late, :, group] = sent[len(sent) - k : len(sent) - k + late, :, group]
        ctx.bounds = bounds
        return arriving, torch.cat([sent, spikes[-len(sent) :]])[-len(sent) :]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_arriving: Tensor, grad_last: Tensor) -> tuple[Tensor, Tensor, None]:
        length, waiting = len(grad_arriving), len(grad_last)
        grad, grad_sent = torch.empty_like(grad_arriving), torch.zeros_like(grad_last)
        for k, group in _groups(ctx.bounds):
            late = min(k, length)
            grad[: length - late, :, group] = grad_arriving[late:, :, group]
            grad[length - late :, :, group] = 0
            grad_sent[waiting - k : waiting - k + late, :, group] = grad_arriving[:late, :, group]
        kept = min(length, waiting)
        grad[length - kept :] += grad_last[waiting - kept :]
        grad_sent[length:] += grad_last[: waiting - kept]
        return grad, grad_sent, None


def _groups(bounds: list[int]) -> Iterator[tuple[int, slice]]:
    """(tokens of delay, the neurons that have it)."""
    return enumerate(slice(start, stop) for start, stop in pairwise(bounds))
