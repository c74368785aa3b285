"""Sets of positions inside one chunk as bytes: everything, a bitmap, or Golomb-Rice coded gaps, whichever is smallest.

A gap is the number of coordinates skipped before a sent one. With parameter k its low k bits are stored as they are
and the rest, q, as q zeros and a one (Golomb 1966; Rice 1979). Here all low parts come first and all unary parts after
them, so that both can be read without a loop over the gaps. Bits fill a byte from the lowest; the last byte's
unused bits are zero.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spikemesh.errors import InvalidData

FULL, BITMAP, RICE = 0, 1, 2
"""Forms of a chunk. RICE + k is Golomb-Rice with parameter k."""

MAX_K = 15
"""For gaps below 2**16 a larger k is never smaller."""

NUM_FORMS = RICE + MAX_K + 1

Positions = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


def encode_positions(positions: Positions, num_coordinates: int) -> tuple[int, Bytes]:
    """(form, bytes) of ascending positions in 0..num_coordinates-1. The smallest form; of equal ones the lowest."""
    if len(positions) == num_coordinates:
        return FULL, np.empty(0, np.uint8)
    gaps = np.diff(positions, prepend=-1) - 1
    num_bits = [len(gaps) * (k + 1) + int((gaps >> k).sum()) for k in range(MAX_K + 1)]
    sizes = [-(-bits // 8) for bits in (num_coordinates, *num_bits)]
    form = BITMAP + sizes.index(min(sizes))
    if form == BITMAP:
        bits = np.zeros(num_coordinates, np.uint8)
        bits[positions] = 1
    else:
        bits = _rice_bits(gaps, form - RICE, num_bits[form - RICE])
    return form, np.packbits(bits, bitorder="little")


def _rice_bits(gaps: Positions, k: int, num_bits: int) -> Bytes:
    bits = np.zeros(num_bits, np.uint8)
    bits[: len(gaps) * k] = ((gaps[:, None] >> np.arange(k)) & 1).reshape(-1)
    bits[len(gaps) * k + np.cumsum((gaps >> k) + 1) - 1] = 1
    return bits


def decode_positions(form: int, data: Bytes, count: int, num_coordinates: int) -> Positions:
    """The `count` positions that `data` stands for, ascending and in range; `InvalidData` if it stands for none.

    Work and memory are bounded by `len(data)` and `num_coordinates`, which the caller has bounded. That the form was
    the smallest and padding is zero is not checked here.
    """
    if form == FULL:
        positions = np.arange(num_coordinates)
    elif form == BITMAP:
        positions = np.flatnonzero(np.unpackbits(data, bitorder="little"))
    else:
        positions = _rice_positions(data, count, form - RICE)
    if len(positions) != count or (count and int(positions[-1]) >= num_coordinates):
        raise InvalidData(
            f"expected {count} positions below {num_coordinates} in a chunk, got {len(positions)}, the last "
            f"{positions[-1] if len(positions) else 'none'}"
        )
    return positions.astype(np.int64, copy=False)


def _rice_positions(data: Bytes, count: int, k: int) -> Positions:
    bits = np.unpackbits(data, bitorder="little")
    ends = np.flatnonzero(bits[count * k :])
    if len(ends) != count:
        raise InvalidData(f"expected {count} Golomb-Rice gaps in {len(data)} bytes, got {len(ends)}")
    high = np.diff(ends, prepend=-1) - 1
    low = bits[: count * k].reshape(count, k) @ (1 << np.arange(k))
    return np.cumsum((high << k) + low + 1) - 1
