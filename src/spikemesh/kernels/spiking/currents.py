"""`currents_forward` and `currents_backward`: what the last few tokens send into every channel of the stream.

    u[t] = sum over k of mix[k] * embedding[token[t-k]]

Compiled code only; `SpikingLM.input_currents` has its twin in torch, with the same bits forward.

Letters: L token (time), B batch, K delay, V value of a token, D channel. Float32; u is [D, L, B].
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spikemesh.kernels.dispatch import native

Floats = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]


def currents_forward(history: Tokens, embedding: Floats, mix: Floats, *, u: Floats, num_threads: int = 1) -> None:
    """`history` [K - 1 + L, B]: the tokens, after the K - 1 before them; below zero: none. `ValueError` from V on."""
    native.currents_forward(*_flat(history, embedding, mix, u), *_sizes(history, mix), num_threads)


def currents_backward(
    history: Tokens,
    embedding: Floats,
    mix: Floats,
    grad_u: Floats,
    *,
    grad_embedding: Floats,
    grad_mix: Floats,
    num_threads: int = 1,
) -> None:
    """The gradients of embedding [V, D] and mix [K, D] from that of u."""
    arrays = _flat(history, embedding, mix, grad_u, grad_embedding, grad_mix)
    native.currents_backward(*arrays, *_sizes(history, mix), num_threads)


def _sizes(history: Tokens, mix: Floats) -> tuple[int, int]:
    return mix.shape[0], history.shape[1]


def _flat(*arrays: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> list[npt.NDArray[np.float32 | np.int64]]:
    """Views: what is written to them is written to the arrays."""
    if not all(array.flags.c_contiguous for array in arrays):
        raise ValueError(f"expected contiguous arrays, got strides {[array.strides for array in arrays]}")
    return [array.reshape(-1) for array in arrays]
