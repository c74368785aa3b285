"""The draws in NumPy: what `cpp/spiking/draw.cpp` does, operation by operation, for many rows at once.

Letters: R row, C column, K draw of a row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Doubles = npt.NDArray[np.float64]

WORD = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def draw_columns(
    seed: int,
    tensor: int,
    purpose: int,
    first_row: int,
    num_rows: int,
    num_columns: int,
    out: npt.NDArray[np.int32],
    _num_threads: int,
) -> None:
    fan_in = len(out) // num_rows if num_rows else 0
    if fan_in > num_columns:
        raise ValueError("expected at most as many to draw as there are columns")
    for row in range(num_rows):  # one row's booleans at a time
        held = np.zeros(num_columns, np.bool_)
        words = _blocks(seed, tensor, purpose, np.array([first_row + row]), -(-fan_in // 2)).reshape(-1, 2)
        bounds = np.arange(num_columns - fan_in + 1, num_columns + 1, dtype=np.uint64)
        low, high = words[:fan_in, 0], words[:fan_in, 1]
        drawn = (high * bounds + (low * bounds >> HALF)) >> HALF
        for column, last in zip(drawn.tolist(), range(num_columns - fan_in, num_columns), strict=True):
            held[last if held[column] else column] = True
        out[row * fan_in : (row + 1) * fan_in] = held.nonzero()[0]


def draw_normals(
    seed: int,
    tensor: int,
    purpose: int,
    first_row: int,
    num_rows: int,
    std: float,
    out: npt.NDArray[np.float32],
    _num_threads: int,
) -> None:
    if num_rows == 0:
        return
    count = len(out) // num_rows
    words = _blocks(seed, tensor, purpose, np.arange(first_row, first_row + num_rows), -(-count // 4))
    out[:] = (normal(words.reshape(num_rows, -1)[:, :count]) * std).astype(np.float32).reshape(-1)


def _blocks(seed: int, tensor: int, purpose: int, rows: npt.NDArray[np.int64], num_blocks: int) -> Words:
    """The blocks 0..num_blocks-1 of each row: words [R, blocks, 4]."""
    shape = (len(rows), num_blocks)
    index: Words = np.broadcast_to(np.arange(num_blocks, dtype=np.uint64), shape)
    row: Words = np.broadcast_to(rows.astype(np.uint64)[:, None], shape)
    return philox(seed, (index, row, np.full(shape, tensor, np.uint64), np.full(shape, purpose, np.uint64)))


def philox(key: int, counter: tuple[Words, Words, Words, Words]) -> Words:
    """Philox4x32-10: four words below 2**32 for each counter, along the last axis."""
    word0, word1, word2, word3 = counter
    key0, key1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(ROUNDS):
        product0, product1 = MULTIPLIERS[0] * word0, MULTIPLIERS[1] * word2
        word0, word1, word2, word3 = (
            (product1 >> HALF) ^ word1 ^ np.uint64(key0),
            product1 & WORD,
            (product0 >> HALF) ^ word3 ^ np.uint64(key1),
            product0 & WORD,
        )
        key0, key1 = (key0 + KEY_STEPS[0]) & 0xFFFFFFFF, (key1 + KEY_STEPS[1]) & 0xFFFFFFFF
    return np.stack([word0, word1, word2, word3], axis=-1)


def normal(words: Words) -> Doubles:
    """The inverse of the normal distribution function at (word + 1/2) / 2**32."""
    p = (words.astype(np.float64) + 0.5) * 2.0**-32
    q = p - 0.5
    r = 0.180625 - q * q
    above = ((5.9109374720e1 * r + 1.5929113202e2) * r + 5.0434271938e1) * r + 3.3871327179
    under = ((6.7187563600e1 * r + 7.8757757664e1) * r + 1.7895169469e1) * r + 1.0
    middle = q * above / under
    r = np.sqrt(-logarithm(np.where(q < 0.0, p, 1.0 - p))) - 1.6
    above = ((1.7023821103e-1 * r + 1.3067284816) * r + 2.7568153900) * r + 1.4234372777
    under = (1.2021132975e-1 * r + 7.3700164250e-1) * r + 1.0
    tail = above / under
    return np.where(np.abs(q) <= 0.425, middle, np.where(q < 0.0, -tail, tail))


def logarithm(x: Doubles) -> Doubles:
    """Natural logarithm of 0 < x < 1: 2 artanh((m - 1) / (m + 1)) of the mantissa, by its series, to 1e-11."""
    m, exponent = np.frexp(x)
    small = m < 0.70710678118654752440
    m, exponent = np.where(small, m * 2.0, m), exponent - small
    s = (m - 1.0) / (m + 1.0)
    r = s * s
    series = np.full_like(x, 1.0 / 13.0)
    for odd in (11.0, 9.0, 7.0, 5.0, 3.0, 1.0):
        series = series * r + 1.0 / odd
    result: Doubles = 2.0 * s * series + exponent * 0.69314718055994530942
    return result
