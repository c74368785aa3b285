"""The parts of a delta: the largest values, their codes and scales, their positions as bytes, and the exact sum.

Compiled code where it was built (`_native`), the NumPy twins elsewhere: the same bytes and sums from both. What differs
is only how: the compiled code looks at each chunk once, in 16-bit numbers, finds out whether its encoding is the one
that is allowed without encoding it again, and adds to a sum while it copies it.

Letters: A coordinate, K sent, C chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spikemesh.kernels.delta import positions_twin
from spikemesh.kernels.delta.codes import Levels, num_blocks
from spikemesh.kernels.delta.positions_twin import Bytes, Integers, Positions, chunk_sizes, num_chunks
from spikemesh.kernels.dispatch import implementation

Floats = npt.NDArray[np.float32]

MAX_SHIFT = 400
"""A float32 shifted by more is zero or beyond its range already."""


@dataclass(frozen=True, eq=False)
class EncodedPositions:
    """The chunk table of a delta, each [C], and the bytes of all chunks' positions one after the other."""

    forms: Bytes
    num_sent: Integers
    num_bytes: Integers
    data: Bytes


def select_largest(values: Floats, num_sent: int) -> Integers | None:
    """The ascending coordinates [K] of the K = `num_sent` largest |values| [A]; of equal ones the lower wins.

    None if not all values are finite.
    """
    values, indices = np.ascontiguousarray(values, np.float32), np.empty(num_sent, np.int64)
    finite = not num_sent or _implementation().select_largest(values, indices)
    return indices if finite else None


def quantise(values: Floats, levels: Levels, nearest: Bytes, shift: int) -> tuple[Bytes, Bytes] | None:
    """Codes [K] and scale bytes [ceil(K / 64)] that stand for finite `values` [K] * 2**shift as nearly as can be.

    `levels` [16] ascend; `nearest` [512] is the code nearest to each half-unit cell, from -128 on. None if a value is
    beyond what the largest scale can say.
    """
    values = np.ascontiguousarray(values, np.float32)
    codes, scales = np.empty(len(values), np.uint8), np.empty(num_blocks(len(values)), np.uint8)
    shift = max(-MAX_SHIFT, min(shift, MAX_SHIFT))
    within = _implementation().quantise(values, levels, nearest, shift, codes, scales)
    return (codes, scales) if within else None


def encode_positions(indices: Integers, num_coordinates: int) -> EncodedPositions:
    """The one encoding of strictly ascending indices [K] in 0..num_coordinates-1; `ValueError` for others."""
    number = num_chunks(num_coordinates)
    room = min(-(-num_coordinates // 8), 17 * len(indices) // 8 + number)  # all bitmaps, or all k = 15
    encoded = EncodedPositions(
        np.empty(number, np.uint8), np.empty(number, np.int64), np.empty(number, np.int64), np.empty(room, np.uint8)
    )
    num_bytes = _implementation().encode_positions(
        np.ascontiguousarray(indices), num_coordinates, encoded.forms, encoded.num_sent, encoded.num_bytes, encoded.data
    )
    if num_bytes < 0:
        raise ValueError(f"indices must be strictly ascending and lie in 0..{num_coordinates - 1}")
    return EncodedPositions(encoded.forms, encoded.num_sent, encoded.num_bytes, encoded.data[:num_bytes])


def decode_positions(encoded: EncodedPositions, num_coordinates: int) -> Positions:
    """Where in their chunks the values lie that were sent, for all chunks that do not send all they have.

    `InvalidData` says what is wrong with bytes that are not the one encoding of some positions. The chunk table must be
    in range and fit the bytes, which is for the caller to check.
    """
    num_sent = encoded.num_sent
    positions = np.empty(int(num_sent[num_sent != chunk_sizes(num_coordinates)].sum()), np.uint16)
    arguments = encoded.forms, num_sent, encoded.num_bytes, encoded.data, num_coordinates, positions
    if not _implementation().decode_positions(*arguments):  # the twin raises, and says why
        positions_twin.decode_positions(*arguments)
    return positions


def fold(
    num_sent: Integers,
    num_coordinates: int,
    positions: Positions,
    codes: Bytes,
    scales: Bytes,
    levels: Levels,
    weight: int,
    before: Sequence[Integers],
    after: Sequence[npt.NDArray[np.int64]],
) -> None:
    """after = before + weight * level * unit, exactly, in the chunks that something is sent to (`num_sent` [C] > 0).

    `positions` are those of `decode_positions`; `codes` are packed, two a byte. `before` and `after` hold the sums of
    those chunks in their order, and may be the same. `ValueError` if what is given does not fit together; `after` then
    means nothing.
    """
    if not _implementation().fold(num_sent, num_coordinates, positions, codes, scales, levels, weight, before, after):
        raise ValueError("positions must be strictly ascending in their chunk, and scales must exist")


def _implementation() -> Any:
    return implementation("delta.delta_twin")
