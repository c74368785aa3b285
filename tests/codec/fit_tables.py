"""How the two tables of levels were found. `python tests/codec/fit_tables.py` prints them again.

Samples: three parts Gaussian, one part Laplace values, which is between what AdamW deltas of a small language model
look like and heavier tails. For TOP_K the top 25 % of them, in blocks of 64; for DENSE all of them.

Fit: Lloyd-Max (Lloyd 1982; Max 1960), alternating three steps until the levels stand still: the best scale byte for
each block, the nearest level for each value, the least-squares level for the values of each code. TOP_K is kept
symmetric, DENSE keeps one level at zero (seven above it, eight below, as NF4: Dettmers et al. 2023). The largest level
is then 127 and the others are rounded. Error = |values - dequantised| / |values|.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spikemesh.codec import select_top_k
from spikemesh.kernels.delta.codes import BLOCK_VALUES, UNITS
from spikemesh.kernels.delta.delta_twin import SCALE_CANDIDATES

Floats = npt.NDArray[np.float64]

SENT = 0.25


def samples(kind: str, num_values: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Values by inverse transform of the seed's uniform stream, which NumPy keeps the same between versions."""
    rng = np.random.Generator(np.random.PCG64(seed))
    first, second = rng.random(num_values), rng.random(num_values)
    radius = np.sqrt(-2 * np.log1p(-first))
    if kind == "gaussian":
        values = radius * np.cos(2 * np.pi * second)
    elif kind == "laplace":
        values = -np.log1p(-first) * np.where(second < 0.5, -1.0, 1.0)
    elif kind == "mixture":  # Gaussians whose width is itself log-normal
        values = radius * np.cos(2 * np.pi * second) * np.exp(0.5 * radius * np.sin(2 * np.pi * second))
    else:
        raise ValueError(f"no such distribution: {kind}")
    return values.astype(np.float32)


def blocks_of(kind: str, density: float, num_values: int = 1 << 20) -> Floats:
    """Blocks [number, 64] of the largest values, mean square 1."""
    values = samples(kind, num_values)
    sent = values[select_top_k(values, density)].astype(np.float64)
    blocks = sent[: len(sent) // BLOCK_VALUES * BLOCK_VALUES].reshape(-1, BLOCK_VALUES)[:3000]
    return blocks / np.sqrt(np.mean(blocks**2))


def fit(blocks: Floats, levels: Floats, *, symmetric: bool, iterations: int = 60) -> list[int]:
    for _ in range(iterations):
        unit, codes = assign(blocks, levels)
        weight = np.broadcast_to(unit**2, blocks.shape)
        total = np.bincount(codes.ravel(), weight.ravel(), len(levels))
        moment = np.bincount(codes.ravel(), (blocks * unit).ravel(), len(levels))
        levels = np.where(total > 0, moment / np.maximum(total, 1e-300), levels)
        if symmetric:
            levels = (levels - levels[::-1]) / 2
        else:
            levels[np.abs(levels).argmin()] = 0
        levels = levels / np.abs(levels).max() * 127
    return [round(level) for level in levels]


def assign(blocks: Floats, levels: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """The best unit [number, 1] of each block among the candidates, and the codes that go with it."""
    units = UNITS.astype(np.float64) * 2.0**-20
    middles = (levels[1:] + levels[:-1]) / 2
    first = np.searchsorted(units, np.abs(blocks).max(axis=1) / min(-levels[0], levels[-1]))
    tries = [units[first + offset][:, None] for offset in SCALE_CANDIDATES]
    codes = [np.searchsorted(middles, blocks / unit) for unit in tries]
    errors = [((levels[c] * unit - blocks) ** 2).sum(axis=1) for c, unit in zip(codes, tries, strict=True)]
    best = np.argmin(errors, axis=0)
    rows = np.arange(len(blocks))
    return np.stack(tries)[best, rows], np.stack(codes)[best, rows]


def training_blocks(density: float) -> Floats:
    return np.concatenate([blocks_of("gaussian", density)] * 3 + [blocks_of("laplace", density)])


if __name__ == "__main__":
    half = np.linspace(30.0, 127.0, 8)
    dense = np.concatenate([np.linspace(-127.0, 0.0, 9), np.linspace(0.0, 127.0, 8)[1:]])
    print("DENSE", fit(training_blocks(1.0), dense, symmetric=False))  # noqa: T201
    print("TOP_K", fit(training_blocks(SENT), np.concatenate([-half[::-1], half]), symmetric=True))  # noqa: T201
