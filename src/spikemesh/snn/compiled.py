"""The compiled kernels as functions that autograd can use: CPU, float32, no copies of activations.

Shapes: L token (time), B batch, N neuron, I input neuron, S synapse. Activations lie as `memory` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spikemesh.kernels import Pattern, currents_backward, currents_forward, lif_backward, lif_forward, native
from spikemesh.snn.memory import empty_feature_major, feature_major, is_feature_major, join, laid_like, shape_of
from spikemesh.snn.packed import carrier_of, room_for_bits

Floats = npt.NDArray[np.float32]


def prefers_sparse() -> bool:
    """Whether a model runs faster on this CPU with nothing but its synapses: where the kernels are compiled."""
    return native is not None


def has_kernels(x: Tensor) -> bool:
    """Whether the kernels can work on this tensor."""
    return native is not None and x.device.type == "cpu" and x.dtype == torch.float32


def _array(x: Tensor) -> Floats:
    """The tensor's own memory."""
    array: Floats = x.detach().numpy()
    return array


def _maybe(x: Tensor | None) -> Floats | None:
    return None if x is None else _array(x)


def _potentials(v: Tensor | None, x: Tensor) -> Tensor | None:
    """[B, N] potentials, lying as the currents `x` do."""
    if v is None:
        return None
    return v.T.contiguous().T if is_feature_major(x) else v.contiguous()


def _room_for_potentials(x: Tensor) -> Tensor:
    _, batch, neurons = x.shape
    return x.new_empty(neurons, batch).T if is_feature_major(x) else x.new_empty(batch, neurons)


class CompiledLif(torch.autograd.Function):
    """`functional.lif`; without a threshold `functional.leaky_integral`, whose potentials stand for the spikes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v0: Tensor | None, leak: Tensor, threshold: Tensor | None, sharpness: float
    ) -> tuple[Tensor, Tensor]:
        x = x if is_feature_major(x) else x.contiguous()
        v0, leak = _potentials(v0, x), leak.contiguous()
        threshold = None if threshold is None else threshold.contiguous()
        y, v = torch.empty_like(x), _room_for_potentials(x)
        lif_forward(
            _array(x),
            _maybe(v0),
            _array(leak),
            _maybe(threshold),
            y=_array(y),
            v=_array(v),
            num_threads=torch.get_num_threads(),
        )
        ctx.save_for_backward(x, v0, leak, threshold)
        ctx.set_materialize_grads(False)
        ctx.sharpness = sharpness
        return y, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_v: Tensor | None) -> tuple[Tensor | None, ...]:
        return _lif_gradients(ctx, grad_y, grad_v)


def _lif_gradients(ctx: Any, grad_y: Tensor | None, grad_v: Tensor | None) -> tuple[Tensor | None, ...]:
    """Of x, v0, leak and threshold, and None for the sharpness."""
    x, v0, leak, threshold = ctx.saved_tensors
    grad_x, grad_leak = torch.empty_like(x), torch.empty_like(leak)
    grad_v0 = torch.empty_like(v0) if ctx.needs_input_grad[1] else None
    grad_threshold = None if threshold is None else torch.empty_like(threshold)
    lif_backward(
        _array(x),
        _maybe(v0),
        _array(leak),
        _maybe(threshold),
        ctx.sharpness,
        _array(torch.zeros_like(x) if grad_y is None else laid_like(grad_y, x)),
        _maybe(_potentials(grad_v, x)),
        grad_x=_array(grad_x),
        grad_v0=_maybe(grad_v0),
        grad_leak=_array(grad_leak),
        grad_threshold=_maybe(grad_threshold),
        num_threads=torch.get_num_threads(),
    )
    return grad_x, grad_v0, grad_leak, grad_threshold, None


class PackingLif(torch.autograd.Function):
    """`functional.lif` with its spikes as bits: (what carries their gradient, bits, potentials); see `packed`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v0: Tensor, leak: Tensor, threshold: Tensor, sharpness: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = feature_major(x)
        v0, leak, threshold = v0.T.contiguous().T, leak.contiguous(), threshold.contiguous()
        bits, v = room_for_bits(shape_of(x)), torch.empty_like(v0)
        lif_forward(
            _array(x),
            _array(v0),
            _array(leak),
            _array(threshold),
            bits=bits.numpy(),
            v=_array(v),
            num_threads=torch.get_num_threads(),
        )
        ctx.save_for_backward(x, v0, leak, threshold)
        ctx.set_materialize_grads(False)
        ctx.sharpness = sharpness
        ctx.mark_non_differentiable(bits)
        return carrier_of(shape_of(x)), bits, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, _grad_bits: None, grad_v: Tensor | None) -> tuple[Tensor | None, ...]:
        return _lif_gradients(ctx, grad_y, grad_v)


class InputCurrents(torch.autograd.Function):
    """u[t] = sum over k of mix[k] * embedding[token[t - k]]: history [K - 1 + L, B] -> u [L, B, D], feature-major."""

    @staticmethod
    def forward(ctx: Any, history: Tensor, embedding: Tensor, mix: Tensor) -> Tensor:
        history, embedding, mix = history.contiguous(), embedding.contiguous(), mix.contiguous()
        (delays, channels), (length, batch) = mix.shape, history.shape
        u = empty_feature_major((length - delays + 1, batch, channels), embedding)
        currents_forward(
            history.numpy(), _array(embedding), _array(mix), u=_flat(u), num_threads=torch.get_num_threads()
        )
        ctx.save_for_backward(history, embedding, mix)
        return u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_u: Tensor) -> tuple[Tensor | None, ...]:
        history, embedding, mix = ctx.saved_tensors
        grad_embedding, grad_mix = torch.empty_like(embedding), torch.empty_like(mix)
        currents_backward(
            history.numpy(),
            _array(embedding),
            _array(mix),
            _flat(feature_major(grad_u)),
            grad_embedding=_array(grad_embedding),
            grad_mix=_array(grad_mix),
            num_threads=torch.get_num_threads(),
        )
        return None, grad_embedding, grad_mix


class SparseProduct(torch.autograd.Function):
    """y = synapses x: values [S] at the places of `pattern` -> y [L, B, N], feature-major.

    x [L, B, I] comes in parts, populations side by side: their spikes as `bits`, their carriers as the parts; or, with
    no bits, as values of any kind. What is kept for the backward pass is the bits, or the values.
    """

    @staticmethod
    def forward(ctx: Any, pattern: Pattern, values: Tensor, bits: Tensor | None, *parts: Tensor) -> Tensor:
        length, batch, _ = parts[0].shape
        y = empty_feature_major((length, batch, pattern.num_rows), values)
        if bits is None:
            x = feature_major(join(parts))
            pattern.multiply(_array(values), _flat(x), _flat(y), num_threads=torch.get_num_threads())
        else:
            x = bits
            pattern.multiply_spikes(_array(values), bits.numpy(), _flat(y), num_threads=torch.get_num_threads())
        ctx.save_for_backward(values, x)
        ctx.pattern, ctx.is_packed, ctx.sizes = pattern, bits is not None, [part.shape[2] for part in parts]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        values, x = ctx.saved_tensors
        pattern, threads, grad = ctx.pattern, torch.get_num_threads(), _flat(feature_major(grad_y))
        grad_parts: tuple[Tensor | None, ...] = (None,) * len(ctx.sizes)
        grad_values = None
        if any(ctx.needs_input_grad[3:]):
            grad_x = empty_feature_major((*grad_y.shape[:2], pattern.num_columns), grad_y)
            pattern.multiply_transposed(_array(values), grad, _flat(grad_x), num_threads=threads)
            grad_parts = torch.split(grad_x, ctx.sizes, 2)
        if ctx.needs_input_grad[1]:
            grad_values = torch.empty_like(values)
            if ctx.is_packed:
                pattern.correlate_spikes(grad, x.numpy(), _array(grad_values), num_threads=threads)
            else:
                pattern.correlate(grad, _flat(x), _array(grad_values), num_threads=threads)
        return None, grad_values, None, *grad_parts


def pack_parts(pattern: Pattern, parts: Sequence[Tensor]) -> Tensor | None:
    """Spikes that came as floats, as bits; None if there are other values than zeros and ones."""
    bits, first = pattern.empty_bits(parts[0].shape[0] * parts[0].shape[1]), 0
    for part in parts:
        x = _flat(feature_major(part))
        if not pattern.pack(x, bits, first=first, num_threads=torch.get_num_threads()):
            return None
        first += len(x)
    return torch.from_numpy(bits)


def _flat(x: Tensor) -> Floats:
    """Feature-major [L, B, N] as [N, L * B]: a view."""
    length, batch, neurons = x.shape
    return _array(x.permute(2, 0, 1)).reshape(neurons, length * batch)
