"""Positions of sent coordinates as bytes and back, chunk by chunk: everything, a bitmap, or Golomb-Rice coded gaps.

A chunk takes whichever is smallest. A gap is the number of coordinates skipped before a sent one. With parameter k its
low k bits are stored as they are and the rest, q, as q zeros and a one (Golomb 1966; Rice 1979). Here all low parts
come first and all unary parts after them, so that both can be read without a loop over the gaps. Bits fill a byte from
the lowest; the last byte's unused bits are zero.

This is the NumPy twin of the compiled `encode_positions` and `decode_positions`, and says what is wrong with bytes that
those refuse. Letters: C chunk, K sent.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spikemesh.errors import InvalidData

CHUNK_COORDINATES = 65_536
"""Coordinates per chunk of the sum, of a delta and of their digests."""

FULL, BITMAP, RICE = 0, 1, 2
"""Forms of a chunk. RICE + k is Golomb-Rice with parameter k."""

MAX_K = 15
"""For gaps below 2**16 a larger k is never smaller."""

NUM_FORMS = RICE + MAX_K + 1

NOT_CANONICAL = "a delta must have its smallest, canonical encoding, and this is another one"

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Positions = npt.NDArray[np.uint16]


def num_chunks(num_coordinates: int) -> int:
    return -(-num_coordinates // CHUNK_COORDINATES)


def chunk_sizes(num_coordinates: int) -> Integers:
    """How many coordinates each chunk has [C]."""
    sizes = np.full(num_chunks(num_coordinates), CHUNK_COORDINATES, np.int64)
    sizes[-1] = num_coordinates - (len(sizes) - 1) * CHUNK_COORDINATES
    return sizes


# ---- all chunks, with the arguments of the compiled functions --------------------------------------------------------


def encode_positions(
    indices: Integers, num_coordinates: int, forms: Bytes, num_sent: Integers, num_bytes: Integers, positions: Bytes
) -> int:
    """Fill the chunk table [C] and the positions' bytes. How many of those there are; -1 for indices that are none."""
    if len(indices) and (indices[0] < 0 or indices[-1] >= num_coordinates or (np.diff(indices) <= 0).any()):
        return -1
    starts = np.arange(num_chunks(num_coordinates) + 1, dtype=np.int64) * CHUNK_COORDINATES
    bounds = np.searchsorted(indices, starts)
    written = 0
    for chunk, size in enumerate(chunk_sizes(num_coordinates)):
        local = indices[bounds[chunk] : bounds[chunk + 1]] - starts[chunk]
        form, data = encode_chunk(local, int(size))
        forms[chunk], num_sent[chunk], num_bytes[chunk] = form, len(local), len(data)
        positions[written : written + len(data)] = data
        written += len(data)
    return written


def decode_positions(
    forms: Bytes, num_sent: Integers, num_bytes: Integers, data: Bytes, num_coordinates: int, positions: Positions
) -> bool:
    """Fill in the positions of the chunks that do not send all they have; `InvalidData` if `data` says none."""
    done = read = 0
    for chunk, size in enumerate(chunk_sizes(num_coordinates)):
        form, count, end = int(forms[chunk]), int(num_sent[chunk]), read + int(num_bytes[chunk])
        local = decode_chunk(form, data[read:end], count, int(size))
        smallest, encoded = encode_chunk(local, int(size))
        if smallest != form or encoded.tobytes() != data[read:end].tobytes():
            raise InvalidData(NOT_CANONICAL)
        if form != FULL:
            positions[done : done + count] = local
            done += count
        read = end
    return True


# ---- one chunk -------------------------------------------------------------------------------------------------------


def encode_chunk(positions: Integers, size: int) -> tuple[int, Bytes]:
    """(form, bytes) of ascending positions in 0..size-1. The smallest form; of equal ones the lowest."""
    if len(positions) == size:
        return FULL, np.empty(0, np.uint8)
    gaps = np.diff(positions, prepend=-1) - 1
    num_bits = [len(gaps) * (k + 1) + int((gaps >> k).sum()) for k in range(MAX_K + 1)]
    sizes = [-(-bits // 8) for bits in (size, *num_bits)]
    form = BITMAP + sizes.index(min(sizes))
    if form == BITMAP:
        bits = np.zeros(size, np.uint8)
        bits[positions] = 1
    else:
        bits = _rice_bits(gaps, form - RICE, num_bits[form - RICE])
    return form, np.packbits(bits, bitorder="little")


def _rice_bits(gaps: Integers, k: int, num_bits: int) -> Bytes:
    bits = np.zeros(num_bits, np.uint8)
    bits[: len(gaps) * k] = ((gaps[:, None] >> np.arange(k)) & 1).reshape(-1)
    bits[len(gaps) * k + np.cumsum((gaps >> k) + 1) - 1] = 1
    return bits


def decode_chunk(form: int, data: Bytes, count: int, size: int) -> Integers:
    """The `count` positions that `data` stands for, ascending and in range; `InvalidData` if it stands for none.

    Work and memory are bounded by `len(data)` and `size`, which the caller has bounded. That the form is the smallest
    and padding is zero is not checked here.
    """
    if form == FULL:
        positions = np.arange(size)
    elif form == BITMAP:
        positions = np.flatnonzero(np.unpackbits(data, bitorder="little"))
    else:
        positions = _rice_positions(data, count, form - RICE)
    if len(positions) != count or (count and int(positions[-1]) >= size):
        raise InvalidData(
            f"expected {count} positions below {size} in a chunk, got {len(positions)}, the last "
            f"{positions[-1] if len(positions) else 'none'}"
        )
    return positions.astype(np.int64, copy=False)


def _rice_positions(data: Bytes, count: int, k: int) -> Integers:
    bits = np.unpackbits(data, bitorder="little")
    ends = np.flatnonzero(bits[count * k :])
    if len(ends) != count:
        raise InvalidData(f"expected {count} Golomb-Rice gaps in {len(data)} bytes, got {len(ends)}")
    high = np.diff(ends, prepend=-1) - 1
    low = bits[: count * k].reshape(count, k) @ (1 << np.arange(k))
    return np.cumsum((high << k) + low + 1) - 1
