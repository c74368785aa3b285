"""The outer step: what an author makes of its local progress before publishing. Plain float32 over coordinates.

What is different here: all cleverness stands on the author's side, because what is published is a number that
everybody adds. Momentum is linear, so each author may keep its own (the sum of momenta is the momentum of the sum).

    momentum   m = mu * m + progress
    carried    c = decay * error + m
    sent       s = dequantise(quantise(top-k of c))
    error      e = c - s

Error feedback with top-k: Stich, Cordonnier & Jaggi 2018; SparseLoCo 2025; outer momentum: DiLoCo 2023.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spikemesh.codec import DENSE, TOP_K, QuantisedDelta, dequantise, quantise, select_top_k
from spikemesh.train.recipe import Recipe

Floats = npt.NDArray[np.float32]

WEIGHT_ONE = 4096
"""Weights are integer numbers of 1/4096ths."""

LARGEST_SENT = 110.0 * (1 << 20)
"""In steps of the grid: below the largest number that a code and a scale can say, (127 * 15) << 16."""


@dataclass(frozen=True, eq=False)
class OuterState:
    """What an author carries from round to round, both [A]."""

    momentum: Floats
    error: Floats

    @classmethod
    def zero(cls, num_coordinates: int) -> OuterState:
        return cls(np.zeros(num_coordinates, np.float32), np.zeros(num_coordinates, np.float32))


def outer_step(
    state: OuterState, progress: Floats, recipe: Recipe, grid_exponent: int
) -> tuple[QuantisedDelta, OuterState]:
    """Local progress [A] (live weights minus base) -> what to publish at weight 1, and the state afterwards."""
    momentum = np.float32(recipe.momentum) * state.momentum + progress
    carried = np.float32(recipe.error_decay) * state.error + momentum
    table = DENSE if recipe.sent_density == 1 else TOP_K
    indices = select_top_k(carried, recipe.sent_density)
    limit = np.float32(np.ldexp(LARGEST_SENT, grid_exponent))
    codes, scales = quantise(np.clip(carried[indices], -limit, limit), table, grid_exponent)
    error = carried.copy()
    error[indices] -= dequantise(codes, scales, table, grid_exponent)
    return QuantisedDelta(len(carried), indices, codes, scales, table), OuterState(momentum, error)


def contribution_weight(recipe: Recipe, num_authors: int, staleness: float) -> int:
    """The weight of a contribution in 1/4096ths: num_authors ** -weight_power / (1 + staleness), at least one.

    `staleness` counts how many rounds of the others the work did not see; late work is discounted by its author.
    """
    if num_authors < 1 or not staleness >= 0:
        raise ValueError(f"expected num_authors >= 1 and staleness >= 0, got {num_authors} and {staleness}")
    share = math.pow(num_authors, -recipe.weight_power) / (1 + staleness)
    return max(1, min(WEIGHT_ONE, round(WEIGHT_ONE * share)))
