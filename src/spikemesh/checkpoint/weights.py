"""Weights as people give them, and as the kernels take them: whole numbers over one divisor, of 28 bits together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

from spikemesh.checkpoint.recipe import WEIGHT, parse_weight
from spikemesh.errors import CheckpointError
from spikemesh.kernels import MAX_INPUTS, MAX_WEIGHT

Weight = str | float | Fraction

MAX_SIMPLE = 10_000
"""Fractions with denominators up to here are recognised in the floats that are nearest to them."""
ULPS = Fraction(1, 1 << 50)
"""How far, relatively, a float may lie from the number that is meant: 0.1 + 0.2 is 3/10."""


def given_weight(weight: Weight, *, signed: bool = False, zero: bool = False) -> Fraction:
    """A weight that a user gives. Few digits are taken as written; a float such as 1/3 or 0.1 + 0.2 as the simple
    fraction beside it, any other as its binary value. `ValueError` for none.
    """
    try:
        return parse_weight(weight, signed=signed, zero=zero)
    except ValueError:
        exact = _finite(weight)
        if exact is None or not (Fraction(1, MAX_WEIGHT) <= abs(exact) < MAX_WEIGHT) or (exact < 0 and not signed):
            raise
    simple = exact.limit_denominator(MAX_SIMPLE)
    return simple if abs(simple - exact) <= ULPS * abs(exact) else exact


def _finite(weight: Weight) -> Fraction | None:
    """The exact value of a float, of a decimal of many digits, or of what NumPy and torch have in their place."""
    if isinstance(weight, Fraction):
        return weight
    if isinstance(weight, str) and not WEIGHT.fullmatch(weight):
        return None
    try:
        value = float(weight)
    except (TypeError, ValueError):
        return None
    return Fraction(value) if math.isfinite(value) else None


def integer_weights(weights: Iterable[Fraction]) -> tuple[list[int], int]:
    """Weights as integers over one divisor: 0.7 and 0.3 are [7, 3] and 10. `CheckpointError` if they do not fit."""
    integers, divisor = _integers(list(weights))
    if len(integers) > MAX_INPUTS:
        raise CheckpointError(f"expected at most {MAX_INPUTS} different checkpoints, got {len(integers)}.")
    if not _fits(integers, divisor):
        raise CheckpointError(
            f"the weights are whole numbers up to {max(integers)} over {divisor}: too long. Use fewer digits."
        )
    return integers, divisor


def _integers(weights: Sequence[Fraction]) -> tuple[list[int], int]:
    divisor = math.lcm(*(weight.denominator for weight in weights))
    integers = [int(weight * divisor) for weight in weights]
    common = math.gcd(divisor, *integers)
    return [weight // common for weight in integers], divisor // common


def _fits(integers: Sequence[int], divisor: int) -> bool:
    """Where some are below zero, the base takes part as one more input."""
    size = sum(map(abs, integers)) + divisor
    return size * (2 if min(integers, default=1) < 0 else 1) <= MAX_WEIGHT


def relative(weights: Sequence[Fraction]) -> list[Fraction]:
    """The same proportions in the smallest whole numbers, so that equal proportions are equal weights."""
    integers, _ = _integers(weights)
    common = math.gcd(*integers)
    return [Fraction(weight // common) for weight in integers] if common else list(weights)


def fitted(weights: Sequence[Fraction], *, absolute: bool) -> tuple[list[Fraction], bool]:
    """Weights that the kernels take, and whether they had to be rounded for it, all to the same last place.

    Unless `absolute`, they count relative to each other. `ValueError` if one would become zero.
    """
    exact = list(weights) if absolute else relative(weights)
    if _fits(*_integers(exact)):
        return exact, False
    places = MAX_WEIGHT.bit_length() - 3 - math.ceil(sum(map(abs, exact)) + 1).bit_length()
    unit = Fraction(2) ** places
    rounded = [round(weight * unit) / unit for weight in exact]
    if 0 in rounded:
        raise ValueError("one weight is too small beside the others to count. Leave that checkpoint out.")
    return (rounded if absolute else relative(rounded)), True
