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
from spikemesh.kernels.delta import delta as kernels
from spikemesh.kernels.delta.codes import UNITS, quanta

MAX_LEVEL = 127
NUM_CODES = 16


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

NOT_FINITE = "expected finite values, got an infinity or NaN: the training step diverged, do not publish it"


def select_top_k(values: npt.NDArray[np.float32], density: float) -> npt.NDArray[np.int64]:
    """The ascending coordinates [K] of the K = ceil(density * A) largest |values|; of equal ones the lower wins."""
    if values.ndim != 1 or not 0 < density <= 1:
        raise ValueError(f"expected values [A] and a density in (0, 1], got shape {values.shape} and {density}")
    chosen = kernels.select_largest(values, min(math.ceil(density * len(values)), len(values)))
    if chosen is None:
        raise ValueError(NOT_FINITE)
    return chosen


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
        raise ValueError(NOT_FINITE)
    encoded = kernels.quantise(values, table.level_array, table.nearest, -grid_exponent)
    if encoded is None:
        largest = math.ldexp(min(-table.levels[0], table.levels[-1]) * int(UNITS[-1]), grid_exponent)
        raise ValueError(
            f"a value of {np.abs(values).max():g} is beyond the largest that the grid 2**{grid_exponent} can say, "
            f"{largest:g}: send a smaller step, or found the run with a larger grid_exponent"
        )
    return encoded


def dequantise(
    codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint8], table: Table, grid_exponent: int
) -> npt.NDArray[np.float32]:
    """The values [K] that codes and scales stand for. Exact: a quantum has at most 11 significant bits."""
    return np.ldexp(quanta(codes, scales, table.level_array).astype(np.float32), grid_exponent)


assert MAX_LEVEL * int(UNITS[-1]) < 1 << QUANTUM_BITS
