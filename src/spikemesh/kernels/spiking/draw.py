"""Random numbers that are a function of their place, for the start of a run: the same on every machine.

Number i of a row of a tensor comes from Philox4x32-10 (Salmon et al. 2011) with the seed as its key and

    counter = (block, row, tensor, purpose)     32 bits each; a block is four words of 32 bits

so rows can be drawn in any order, by any number of threads, and no generator's state is kept. `tensor` is the CRC-32 of
the tensor's name: a tensor's numbers do not depend on which others there are.

    columns    Floyd's sampling; draw i is words 2 i % 4, + 1 of block i / 2 as 64 bits, scaled by a multiplication
    normals    the inverse of the distribution function (AS 241, PPND7, Wichura 1988) at (word + 1/2) / 2**32

Only integers, and double operations that IEEE 754 rounds correctly, in one order. Compiled code where it was built, the
NumPy twin elsewhere, the same bits from both.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from spikemesh.kernels.dispatch import implementation

Floats = npt.NDArray[np.float32]
Columns = npt.NDArray[np.int32]

COLUMNS = 0x6D61736B
"""The purposes, last words of the counter."""
NORMALS = 0x696E6974
MAX_SEED = (1 << 64) - 1


def draw_columns(
    seed: int, tensor: str, rows: range, *, num_columns: int, fan_in: int, num_threads: int = 1
) -> Columns:
    """For each of `rows`, `fan_in` of `num_columns` columns, rising: int32 [rows, fan_in].

    Every set is as likely as any other, up to 2**-46. Memory is the result and a bit per column and thread.
    """
    columns = np.empty(len(rows) * fan_in, np.int32)
    implementation("spiking.draw_twin").draw_columns(
        *_place(seed, tensor, COLUMNS, rows), num_columns, columns, num_threads
    )
    return columns.reshape(len(rows), fan_in)


def draw_normals(seed: int, tensor: str, rows: range, *, count: int, std: float, num_threads: int = 1) -> Floats:
    """For each of `rows`, `count` normal deviates of mean zero and deviation `std`: float32 [rows, count]."""
    values = np.empty(len(rows) * count, np.float32)
    implementation("spiking.draw_twin").draw_normals(*_place(seed, tensor, NORMALS, rows), std, values, num_threads)
    return values.reshape(len(rows), count)


def tensor_number(name: str) -> int:
    """Which word of the counter stands for a tensor."""
    return zlib.crc32(name.encode())


def _place(seed: int, tensor: str, purpose: int, rows: range) -> tuple[int, int, int, int, int]:
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"expected a seed in 0..{MAX_SEED}, got {seed}")
    if rows.step != 1:
        raise ValueError(f"expected rows that follow each other, got {rows}")
    return seed, tensor_number(tensor), purpose, rows.start, len(rows)
