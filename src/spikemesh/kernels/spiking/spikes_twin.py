"""The NumPy twin of the helpers for packed spikes (see `spikes`), with the arguments of the compiled functions.

Letters: N neuron, T token.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spikemesh.kernels.spiking.spikes import BLOCK_BYTES, BLOCK_TOKENS, Bits, Floats


def delay_spikes(bits: Bits, delays: npt.NDArray[np.int64], num_tokens: int, out: Bits) -> None:
    spikes = unpack_rows(bits, len(delays), num_tokens)
    late = np.zeros_like(spikes)
    for row, to, delay in zip(spikes, late, delays.tolist(), strict=True):
        to[delay:] = row[: max(0, num_tokens - delay)]
    out[:] = pack_rows(late)


def unpack_spikes(bits: Bits, num_neurons: int, num_tokens: int, first: int, out: Floats) -> None:
    if out.size:
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
