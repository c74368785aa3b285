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
from spikemesh.snn.memory import empty_feature_major, feature_major, is_feature_major, join, laid_like

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint8]


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


def _potentials(v: Tensor, x: Tensor) -> Tensor:
    """[B, N] potentials, lying as the currents `x` do."""
    return v.T.contiguous().T if is_feature_major(x) else v.contiguous()


class CompiledLif(torch.autograd.Function):
    """`functional.lif`; without a threshold `functional.leaky_integral`, whose potentials stand for the spikes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v0: Tensor, leak: Tensor, threshold: Tensor | None, sharpness: float
    ) -> tuple[Tensor, Tensor]:
        x = x if is_feature_major(x) else x.contiguous()
        v0, leak = _potentials(v0, x), leak.contiguous()
        threshold = None if threshold is None else threshold.contiguous()
        y, v = torch.empty_like(x), torch.empty_like(v0)
        lif_forward(
            _array(x),
            _array(v0),
            _array(leak),
            _maybe(threshold),
            y=_array(y),
            v=_array(v),
            num_threads=torch.get_num_threads(),
        )
        ctx.save_for_backward(x, v0, leak, threshold)
        ctx.sharpness = sharpness
        return y, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_v: Tensor) -> tuple[Tensor | None, ...]:
        x, v0, leak, threshold = ctx.saved_tensors
        grad_x, grad_v0, grad_leak = torch.empty_like(x), torch.empty_like(v0), torch.empty_like(leak)
        grad_threshold = None if threshold is None else torch.empty_like(threshold)
        lif_backward(
            _array(x),
            _array(v0),
            _array(leak),
            _maybe(threshold),
            ctx.sharpness,
            _array(laid_like(grad_y, x)),
            _array(_potentials(grad_v, x)),
            grad_x=_array(grad_x),
            grad_v0=_array(grad_v0),
            grad_leak=_array(grad_leak),
            grad_threshold=_maybe(grad_threshold),
            num_threads=torch.get_num_threads(),
        )
        return grad_x, grad_v0, grad_leak, grad_threshold, None


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
    """y = synapses x: values [S] at the places of `pattern`, x [L, B, I] in parts -> y [L, B, N], feature-major.

    The parts are populations side by side. Spikes are kept for the backward pass as bits; other inputs as they are.
    """

    @staticmethod
    def forward(ctx: Any, pattern: Pattern, values: Tensor, *parts: Tensor) -> Tensor:
        length, batch, _ = parts[0].shape
        threads, ctx.sizes = torch.get_num_threads(), [part.shape[2] for part in parts]
        y = empty_feature_major((length, batch, pattern.num_rows), values)
        bits = _packed(pattern, parts, pattern.empty_bits(length * batch))
        if bits is not None:
            pattern.multiply_spikes(_array(values), bits.numpy(), _flat(y), num_threads=threads)
            ctx.save_for_backward(values, bits)
        else:
            x = feature_major(join(parts))
            pattern.multiply(_array(values), _flat(x), _flat(y), num_threads=threads)
            ctx.save_for_backward(values, x)
        ctx.pattern, ctx.is_binary = pattern, bits is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        values, x = ctx.saved_tensors
        pattern, threads, grad = ctx.pattern, torch.get_num_threads(), _flat(feature_major(grad_y))
        grad_parts: tuple[Tensor | None, ...] = (None,) * len(ctx.sizes)
        grad_values = None
        if any(ctx.needs_input_grad[2:]):
            grad_x = empty_feature_major((*grad_y.shape[:2], pattern.num_columns), grad_y)
            pattern.multiply_transposed(_array(values), grad, _flat(grad_x), num_threads=threads)
            grad_parts = torch.split(grad_x, ctx.sizes, 2)
        if ctx.needs_input_grad[1]:
            grad_values = torch.empty_like(values)
            if ctx.is_binary:
                pattern.correlate_spikes(grad, x.numpy(), _array(grad_values), num_threads=threads)
            else:
                pattern.correlate(grad, _flat(x), _array(grad_values), num_threads=threads)
        return None, grad_values, *grad_parts


def _packed(pattern: Pattern, parts: Sequence[Tensor], bits: Bits) -> Tensor | None:
    """The spikes of all parts as bits, or None if there are other values than zeros and ones."""
    first = 0
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
