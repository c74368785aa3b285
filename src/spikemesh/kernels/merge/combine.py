"""`combine` and `scan`: one window of a tensor's raw bytes, from several checkpoints into one, or looked through.

Compiled code where it was built (`_native`), the NumPy twin elsewhere: the same bytes and counts from both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from spikemesh.kernels.dispatch import implementation
from spikemesh.kernels.merge.elements import Element

Bytes = npt.NDArray[np.uint8]

MAX_INPUTS = 256
MAX_WEIGHT = 1 << 28
"""Weights and divisor together: times the 24 bits of a float, a product is still exact in a double."""


class Rule(IntEnum):
    """How the values of one coordinate become one. With a base, the rules run on differences from it.

    "Held" is not zero, or marked in the mask; with a base, changed from it. What nobody holds stays zero, or the base.
    """

    ACTIVE_MEAN = 0
    """Weighted mean over the inputs that hold the coordinate: the others say nothing, so nothing is diluted."""
    MEAN = 1
    """Weighted mean over all inputs, zeros included."""
    SUM = 2
    """Weighted sum; with a base, task arithmetic (Ilharco et al. 2023)."""
    TRIMMED_MEAN = 3
    """Active mean without the quarter at each end: at least one value of three, none of two (Yin et al. 2018)."""
    SIGN_ELECT = 4
    """Active mean over the side of zero, or of the base, that the weighted sum lies on (TIES, Yadav et al. 2023)."""
    MAX_MAGNITUDE = 5
    """The held value furthest from zero, or from the base; of two as far, the larger. Takes no weights."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a window held. Coordinates are counted from its start; -1 is none."""

    held: int
    """Coordinates that some input holds."""
    nonzero: int
    """Coordinates that are not zero in the result."""
    vanished: int
    """Coordinates too small for the result's element type: they became zero."""
    first_overflow: int
    """The first coordinate that is beyond the range of the result's element type."""
    first_bad: tuple[int, ...]
    """Per input, the first coordinate that is NaN or infinite. Such coordinates are in no other count."""
    first_bad_base: int


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What one tensor window holds; `smallest` and `largest` are over finite values, and 0 if there are none."""

    nonzero: int
    non_finite: int
    smallest: float
    largest: float


def combine(
    rule: Rule,
    inputs: Sequence[Bytes],
    *,
    element: Element,
    out: Bytes,
    out_element: Element,
    weights: Sequence[int],
    divisor: int = 1,
    base: Bytes | None = None,
    mask: npt.NDArray[Any] | None = None,
) -> Counts:
    """Combine the same window of several tensors into `out`: the exact rational result, rounded once, to nearest even.

    `inputs` and `base` are raw bytes of float `element`s, `out` of `out_element`s, `mask` is one byte per coordinate.
    The result depends on the set of (input, weight) pairs alone, not on their order. Weights are positive integers;
    `divisor` is what `Rule.SUM` divides by. A zero is +0. Where the counts tell of what is not finite or beyond the
    range, the result means nothing. `out` may not overlap the rest. Raises `ValueError` for sizes that do not fit.
    """
    held, nonzero, vanished, first_overflow, first_bad, first_bad_base = _implementation().combine(
        int(rule), list(inputs), list(weights), divisor, base, mask, _code(element), _code(out_element), out
    )
    return Counts(
        held=held,
        nonzero=nonzero,
        vanished=vanished,
        first_overflow=first_overflow,
        first_bad=tuple(first_bad),
        first_bad_base=first_bad_base,
    )


def scan(data: Bytes, element: Element) -> Scan:
    """Count and bound the float `element`s in raw bytes."""
    nonzero, non_finite, smallest, largest = _implementation().scan(data, _code(element))
    return Scan(nonzero=nonzero, non_finite=non_finite, smallest=smallest, largest=largest)


def _implementation() -> Any:
    return implementation("merge.combine_twin")


def _code(element: Element) -> int:
    if element.code is None:
        raise ValueError(f"expected a float element type, not {element.name}")
    return element.code
