"""Spikes as bits: packed by a neuron kernel, read by the products with synapses (`sparse`), and these small helpers.

Tokens are cut into blocks of 256; a block holds 32 bytes for each neuron, [blocks, N, 32], the first token lowest in
its byte and zeros behind the last one. Compiled code where it was built, NumPy elsewhere.

Letters: N neuron, T token (of all batch rows, step by step).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spikemesh.kernels.build import native

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint8]

BLOCK_TOKENS = 256
BLOCK_BYTES = BLOCK_TOKENS // 8


def num_bit_bytes(num_neurons: int, num_tokens: int) -> int:
    """How many bytes the spikes of so many neurons and tokens take."""
    return -(-num_tokens // BLOCK_TOKENS) * num_neurons * BLOCK_BYTES


def count_spikes(bits: Bits) -> int:
    return int(np.bitwise_count(bits.view(np.uint64)).sum())


def delay_spikes(bits: Bits, delays: npt.NDArray[np.int64], num_tokens: int, out: Bits) -> None:
    """Each neuron's spikes `delays` [N] tokens later into `out`, after zeros; the last ones are lost."""
    if native is not None:
        native.delay_spikes(bits, delays, num_tokens, out)
        return
    spikes = unpack_rows(bits, len(delays), num_tokens)
    late = np.zeros_like(spikes)
    for row, to, delay in zip(spikes, late, delays.tolist(), strict=True):
        to[delay:] = row[: max(0, num_tokens - delay)]
    out[:] = pack_rows(late)


def unpack_spikes(bits: Bits, num_neurons: int, num_tokens: int, first: int, out: Floats) -> None:
    """The tokens from `first` on, as many as `out` [N, ...] holds for each neuron, as zeros and ones."""
    if not out.flags.c_contiguous:
        raise ValueError(f"expected a contiguous array, got shape {out.shape} with strides {out.strides}")
    if native is not None:
        native.unpack_spikes(bits, num_neurons, num_tokens, first, out.reshape(-1))
    elif out.size:
        rows = out.reshape(num_neurons, -1)
        rows[:] = unpack_rows(bits, num_neurons, num_tokens)[:, first : first + rows.shape[1]]


def pack_rows(spikes: npt.NDArray[np.bool_]) -> Bits:
    """Bits from booleans [N, T]."""
    (num_neurons, num_tokens), num_blocks = spikes.shape, -(-spikes.shape[1] // BLOCK_TOKENS)
    padded = np.zeros((num_neurons, num_blocks * BLOCK_TOKENS), np.bool_)
    padded[:, :num_tokens] = spikes
    packed = np.packbits(padded.reshape(num_neurons, num_blocks, BLOCK_TOKENS), axis=2, bitorder="little")
    return packed.transpose(1, 0, 2).reshape(-1)


def unpack_rows(bits: Bits, num_neurons: int, num_tokens: int) -> npt.NDArray[np.bool_]:
    """Booleans [N, T] from bits."""
    num_blocks = -(-num_tokens // BLOCK_TOKENS)
    rows = (
        bits.reshape(num_blocks, num_neurons, BLOCK_BYTES)
        .transpose(1, 0, 2)
        .reshape(num_neurons, num_blocks * BLOCK_BYTES)
    )
    return np.unpackbits(rows, axis=1, bitorder="little")[:, :num_tokens].view(np.bool_)
