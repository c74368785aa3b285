"""The NumPy twin of what is compiled about deltas: the same choices, codes, scales, bytes and sums.

Each function has the arguments of the compiled one. Letters: A coordinate, K sent, C chunk.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spikemesh.kernels.delta.codes import BLOCK_VALUES, MAX_SCALE, UNITS, Levels, quanta, unpack_codes
from spikemesh.kernels.delta.positions_twin import (
    Bytes,
    Integers,
    Positions,
    chunk_sizes,
    decode_positions,
    encode_positions,
)

__all__ = ["decode_positions", "encode_positions", "fold", "quantise", "select_largest"]

SCALE_CANDIDATES = (0, -1, 1, -2, -3)
"""Offsets, in scale bytes, around the smallest scale that reaches the block's largest value; the least squared error
wins, the earlier on a tie. A smaller scale clips that value and serves the other 63 better."""

_PART_VALUES = 1 << 16

Floats = npt.NDArray[np.float32]


# ---- the largest values ----------------------------------------------------------------------------------------------


def select_largest(values: Floats, indices: Integers) -> bool:
    """Fill in the ascending coordinates [K] of the largest |values| [A]. False if not all values are finite."""
    magnitudes = np.abs(values)
    if not bool(np.isfinite(magnitudes).all()):
        return False
    num_sent = len(indices)
    threshold = np.partition(magnitudes, len(values) - num_sent)[len(values) - num_sent]
    chosen = magnitudes > threshold
    ties = np.flatnonzero(magnitudes == threshold)
    chosen[ties[: num_sent - int(np.count_nonzero(chosen))]] = True
    indices[:] = np.flatnonzero(chosen)
    return True


# ---- codes and scales ------------------------------------------------------------------------------------------------


def quantise(values: Floats, levels: Levels, nearest: Bytes, shift: int, codes: Bytes, scales: Bytes) -> bool:
    """Fill in codes and scales of `values` [K] * 2**shift. False if one is beyond the largest scale."""
    for start in range(0, len(values), _PART_VALUES):
        part = values[start : start + _PART_VALUES]
        blocks = np.pad(part, (0, -len(part) % BLOCK_VALUES), "edge").reshape(-1, BLOCK_VALUES)
        with np.errstate(over="ignore", under="ignore"):
            steps = np.ldexp(blocks, shift)
        first = np.searchsorted(UNITS.astype(np.float32), np.abs(steps).max(axis=1) / _reach(levels))
        if bool((first > MAX_SCALE).any()):
            return False
        with np.errstate(under="ignore"):
            part_codes, part_scales = _quantise_blocks(steps, first, levels, nearest)
        codes[start : start + len(part)] = part_codes.reshape(-1)[: len(part)]
        scales[start // BLOCK_VALUES : start // BLOCK_VALUES + len(part_scales)] = part_scales
    return True


def _reach(levels: Levels) -> np.float32:
    return np.float32(min(-levels[0], levels[-1]))


def _quantise_blocks(blocks: Floats, first: Integers, levels: Levels, nearest: Bytes) -> tuple[Bytes, Bytes]:
    """Codes and scales of `blocks` [number, 64], of which the scales `first` reach the largest values."""
    floats, units = levels.astype(np.float32), UNITS.astype(np.float32)
    best_codes = np.empty(blocks.shape, np.uint8)
    best_scales = np.zeros(len(blocks), np.uint8)
    best_error = np.full(len(blocks), np.inf, np.float32)
    for offset in SCALE_CANDIDATES:
        scales = np.clip(first + offset, 0, MAX_SCALE)
        unit = units[scales][:, None]
        cells = np.clip(blocks * (2 / unit) + 256, 0, 511).astype(np.intp)
        codes = nearest[cells]
        error = _sum_of_squares(floats[codes] * unit - blocks)
        better = error < best_error
        best_codes[better], best_scales[better] = codes[better], scales[better].astype(np.uint8)
        best_error[better] = error[better]
    return best_codes, best_scales


def _sum_of_squares(differences: Floats) -> Floats:
    """Per block of 64, added in one fixed order, since sums in float32 depend on it and a tie of scales on them.

    It is that of `einsum` on x86, so that scales are what they have always been: four sums over every fourth square, in
    each sixteen from the last to the first.
    """
    squares = (differences * differences).reshape(-1, 4, 4, 4)
    total = np.zeros((len(squares), 4), np.float32)
    for sixteen in range(4):
        for four in (3, 2, 1, 0):
            total += squares[:, sixteen, four]
    error: Floats = (total[:, 0] + total[:, 1]) + (total[:, 2] + total[:, 3])
    return error


# ---- the sum ---------------------------------------------------------------------------------------------------------


def fold(
    num_sent: Integers,
    num_coordinates: int,
    positions: Positions,
    codes: Bytes,
    scales: Bytes,
    levels: Levels,
    weight: int,
    before: Sequence[Integers],
    after: Sequence[Integers],
) -> bool:
    """after = before + weight * quanta, in the chunks that something is sent to; `codes` are packed.

    False, with `after` undefined, if positions are not strictly ascending in their chunk or a scale does not exist.
    """
    if len(scales) and int(scales.max()) > MAX_SCALE:
        return False
    sent = quanta(unpack_codes(codes, int(num_sent.sum())), scales, levels)
    counts, sizes = (array[num_sent > 0].tolist() for array in (num_sent, chunk_sizes(num_coordinates)))
    done = read = 0
    for count, size, old, new in zip(counts, sizes, before, after, strict=True):
        where: slice | Positions = slice(None)
        if count != size:
            where = positions[read : read + count]
            read += count
            if where[-1] >= size or (where[1:] <= where[:-1]).any():
                return False
        if new is not old:
            np.copyto(new, old)
        new[where] += sent[done : done + count] * np.int64(weight)
        done += count
    return True
