"""What 4-bit codes and one-byte scales mean: integers, their quanta. Plain NumPy; K is the number of sent values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spikemesh.kernels.delta.positions_twin import Bytes

BLOCK_VALUES = 64
"""Sent values that share one scale byte."""

MAX_SCALE = (16 << 3) | 7
"""The largest scale byte: a level below 2**7, 8 + m below 2**4 and e <= 16 keep a quantum below 2**27."""

UNITS: npt.NDArray[np.int32] = np.array([(8 + (b & 7)) << (b >> 3) for b in range(MAX_SCALE + 1)], np.int32)
"""The unit that each scale byte stands for, ascending."""

Levels = npt.NDArray[np.int32]
"""What each code of a table stands for [16], ascending."""


def num_blocks(num_sent: int) -> int:
    return -(-num_sent // BLOCK_VALUES)


def pack_codes(codes: Bytes) -> Bytes:
    """Two codes a byte, the first in the low half; an unused half is zero."""
    pairs = np.pad(codes, (0, len(codes) % 2)).reshape(-1, 2)
    packed: Bytes = pairs[:, 0] | pairs[:, 1] << np.uint8(4)
    return packed


def unpack_codes(packed: Bytes, num_sent: int) -> Bytes:
    codes = np.empty((len(packed), 2), np.uint8)
    codes[:, 0], codes[:, 1] = packed & 15, packed >> 4
    return codes.reshape(-1)[:num_sent]


def quanta(codes: Bytes, scales: Bytes, levels: Levels) -> npt.NDArray[np.int32]:
    """The integers [K] that codes [K] and scales [ceil(K / 64)] stand for, in steps of the grid; |quantum| < 2**27."""
    if scales.shape != (num_blocks(len(codes)),):
        raise ValueError(f"{len(codes)} codes need {num_blocks(len(codes))} scales, got {scales.shape}")
    product: npt.NDArray[np.int32] = levels[codes]
    product *= np.repeat(UNITS[scales], BLOCK_VALUES)[: len(codes)]
    return product
