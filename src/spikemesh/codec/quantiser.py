"""Author-side arithmetic: which values are sent, and the nearest 4-bit code and one-byte scale for each of them.

Values are sent in blocks of 64. A scale byte `(e << 3) | m` reads as the unit `(8 + m) * 2**e`; a code reads as one of
16 integer levels. Their product, the quantum, is an integer number of steps of `2**grid_exponent`: nothing that the
merge adds up is ever rounded. The rounding here is free to be good, because the author carries its error forward.

Letters: A coordinate, K sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from spikemesh.crdt import QUANTUM_BITS

BLOCK_VALUES = 64
"""Sent values that share one scale byte."""

MAX_SCALE = (16 << 3) | 7
"""The largest scale byte: a level below 2**7, 8 + m below 2**4 and e <= 16 keep a quantum below 2**27."""

MAX_LEVEL = 127
NUM_CODES = 16

UNITS: npt.NDArray[np.int32] = np.array([(8 + (b & 7)) << (b >> 3) for b in range(MAX_SCALE + 1)], np.int32)
"""The unit that each scale byte stands for, ascending."""

SCALE_CANDIDATES = (0, -1, 1, -2, -3)
"""Offsets, in scale bytes, around the smallest scale that reaches the block's largest value; the least squared error
wins, the earlier on a tie. A smaller scale clips that value and serves the other 63 better."""

_PART_VALUES = 1 << 16


@dataclass(frozen=True)
class Table:
    """16 ascending integer levels; a code is a level's position. `name` is what a delta's bytes say."""

    name: str
    levels: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.levels) != NUM_CODES or list(self.levels) != sorted(set(self.levels)):
            raise ValueError(f"a table has {NUM_CODES} distinct ascending levels, got {self.levels}")
        if max(map(abs, self.levels)) > MAX_LEVEL:
            raise ValueError(f"a level is at most {MAX_LEVEL}, got {self.levels}")

    @cached_property
    def level_array(self) -> npt.NDArray[np.int32]:
        return np.array(self.levels, np.int32)

    @cached_property
    def nearest(self) -> npt.NDArray[np.uint8]:
        """The code nearest to a value in each half-unit cell, from -128 on: midpoints of integers are half-integers."""
        cells = (np.arange(512) - 255.5) / 2
        codes: npt.NDArray[np.uint8] = np.abs(cells[:, None] - self.level_array).argmin(1).astype(np.uint8)
        return codes


DENSE = Table("dense", (-127, -96, -75, -58, -44, -31, -20, -10, 0, 11, 22, 35, 50, 67, 88, 120))
"""For deltas that send every coordinate. Both tables: Lloyd-Max levels; the recipe is `tests/codec/fit_tables.py`."""

TOP_K = Table("topk", (-127, -103, -86, -73, -63, -53, -43, -31, 31, 43, 53, 63, 73, 86, 103, 127))
"""For the largest values of a delta: nothing near zero, since what is sent is above a threshold."""

TABLES = {table.name: table for table in (DENSE, TOP_K)}


def select_top_k(values: npt.NDArray[np.float32], density: float) -> npt.NDArray[np.int64]:
    """The ascending coordinates [K] of the K = ceil(density * A) largest |values|; of equal ones the lower wins."""
    if values.ndim != 1 or not 0 < density <= 1:
        raise ValueError(f"expected values [A] and a density in (0, 1], got shape {values.shape} and {density}")
    magnitudes = np.abs(values)
    if not bool(np.isfinite(magnitudes).all()):
        raise ValueError(
            "expected finite values, got an infinity or NaN: the training step diverged, do not publish it"
        )
    num_sent = min(math.ceil(density * len(values)), len(values))
    if num_sent == 0:
        return np.empty(0, np.int64)
    threshold = np.partition(magnitudes, len(values) - num_sent)[len(values) - num_sent]
    chosen = magnitudes > threshold
    ties = np.flatnonzero(magnitudes == threshold)
    chosen[ties[: num_sent - int(np.count_nonzero(chosen))]] = True
    return np.flatnonzero(chosen).astype(np.int64, copy=False)


def num_blocks(num_sent: int) -> int:
    return -(-num_sent // BLOCK_VALUES)


def quantise(
    values: npt.NDArray[np.float32], table: Table, grid_exponent: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Codes [K] in 0..15 and scale bytes [ceil(K / 64)] that stand for `values` [K] as nearly as can be.

    Raises `ValueError` for values that are not finite or too large for the grid. Values too small for it take the
    smallest scale: they become the nearest level, zero in `DENSE` and one of the two smallest levels in `TOP_K`.
    """
    if values.ndim != 1:
        raise ValueError(f"expected values [K], got shape {values.shape}")
    if not bool(np.isfinite(values).all()):
        raise ValueError(
            "expected finite values, got an infinity or NaN: the training step diverged, do not publish it"
        )
    codes = np.empty(len(values), np.uint8)
    scales = np.empty(num_blocks(len(values)), np.uint8)
    for start in range(0, len(values), _PART_VALUES):
        part = values[start : start + _PART_VALUES]
        blocks = np.pad(part, (0, -len(part) % BLOCK_VALUES), "edge").reshape(-1, BLOCK_VALUES)
        with np.errstate(over="ignore", under="ignore"):
            part_codes, part_scales = _quantise_blocks(np.ldexp(blocks, -grid_exponent), table, grid_exponent)
        codes[start : start + len(part)] = part_codes.reshape(-1)[: len(part)]
        scales[start // BLOCK_VALUES : start // BLOCK_VALUES + len(part_scales)] = part_scales
    return codes, scales


def _quantise_blocks(
    blocks: npt.NDArray[np.float32], table: Table, grid_exponent: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Codes and scales of `blocks` [number, 64], which are in steps of the grid."""
    levels, units = table.level_array.astype(np.float32), UNITS.astype(np.float32)
    reach = np.float32(min(-table.levels[0], table.levels[-1]))
    largest = np.abs(blocks).max(axis=1)
    first = np.searchsorted(units, largest / reach)
    if bool((first > MAX_SCALE).any()):
        raise ValueError(
            f"a value of {math.ldexp(float(largest.max()), grid_exponent):g} is beyond the largest that the grid "
            f"2**{grid_exponent} can say, {math.ldexp(float(reach * units[-1]), grid_exponent):g}: send a smaller "
            "step, or found the run with a larger grid_exponent"
        )
    best_codes = np.empty(blocks.shape, np.uint8)
    best_scales = np.zeros(len(blocks), np.uint8)
    best_error = np.full(len(blocks), np.inf, np.float32)
    for offset in SCALE_CANDIDATES:
        scales = np.clip(first + offset, 0, MAX_SCALE)
        unit = units[scales][:, None]
        cells = np.clip(blocks * (2 / unit) + 256, 0, 511).astype(np.intp)
        codes = table.nearest[cells]
        difference = levels[codes] * unit - blocks
        error = np.einsum("bv,bv->b", difference, difference)
        better = error < best_error
        best_codes[better], best_scales[better] = codes[better], scales[better].astype(np.uint8)
        best_error[better] = error[better]
    return best_codes, best_scales


def quanta(codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint8], table: Table) -> npt.NDArray[np.int32]:
    """The integers [K] that codes [K] and scales [ceil(K / 64)] stand for, in steps of the grid; |quantum| < 2**27."""
    if scales.shape != (num_blocks(len(codes)),):
        raise ValueError(f"{len(codes)} codes need {num_blocks(len(codes))} scales, got {scales.shape}")
    product = table.level_array[codes]
    product *= np.repeat(UNITS[scales], BLOCK_VALUES)[: len(codes)]
    return product


def dequantise(
    codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint8], table: Table, grid_exponent: int
) -> npt.NDArray[np.float32]:
    """The values [K] that codes and scales stand for. Exact: a quantum has at most 11 significant bits."""
    return np.ldexp(quanta(codes, scales, table).astype(np.float32), grid_exponent)


assert MAX_LEVEL * int(UNITS[-1]) < 1 << QUANTUM_BITS
