"""Spikes as bits: packed by a neuron kernel, read by the products with synapses (`sparse`), and these small helpers.

Tokens are cut into blocks of 256; a block holds 32 bytes for each neuron, [blocks, N, 32], the first token lowest in
its byte and zeros behind the last one. Compiled code where it was built, NumPy elsewhere.

Letters: N neuron, T token (of all batch rows, step by step).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spikemesh.kernels.dispatch import implementation

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
    implementation("spiking.spikes_twin").delay_spikes(bits, delays, num_tokens, out)


def unpack_spikes(bits: Bits, num_neurons: int, num_tokens: int, first: int, out: Floats) -> None:
    """The tokens from `first` on, as many as `out` [N, ...] holds for each neuron, as zeros and ones."""
    if not out.flags.c_contiguous:
        raise ValueError(f"expected a contiguous array, got shape {out.shape} with strides {out.strides}")
    implementation("spiking.spikes_twin").unpack_spikes(bits, num_neurons, num_tokens, first, out.reshape(-1))
