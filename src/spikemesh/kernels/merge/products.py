"""`add_products`: a stretch of a matrix plus products of thin matrices, the exact sum rounded once.

Compiled code where it was built (`_native`), the NumPy twin elsewhere: the same bytes from both.

Shapes: M row, K term, N column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spikemesh.kernels.dispatch import implementation
from spikemesh.kernels.merge.elements import Element
from spikemesh.kernels.merge.widen import Reals

Bytes = npt.NDArray[np.uint8]

MAX_INTEGER = 1 << 28
"""Of a term's weight in magnitude, and of the divisor."""


@dataclass(frozen=True, kw_only=True)
class Factors:
    """What is added to a matrix [M, N]: `left * coefficients @ right`, a coefficient being weight * scale / divisor.

    Both factors are finite, C-contiguous and of one type, float32 or float64.
    """

    left_MK: Reals
    right_KN: Reals
    weights_K: npt.NDArray[np.int64]
    scales_K: npt.NDArray[np.float64]
    divisor: int
    reach_K: npt.NDArray[np.float64]
    """The largest magnitude in each row of `right_KN`: it bounds what a double may be off by."""


@dataclass(frozen=True, kw_only=True)
class ProductCounts:
    """What a stretch held. Elements are counted from its start; -1 is none."""

    nonzero: int
    """Elements that are not zero in the result."""
    wide: int
    """Elements so near to where the rounding turns that wide integers had to decide; of no use to results."""
    first_bad: int
    """The first element of the base that is NaN or infinite. What became of it means nothing."""
    first_overflow: int
    """The first element beyond the range of the result's type."""


def add_products(
    base: Bytes,
    factors: Factors,
    *,
    element: Element,
    start: int,
    out: Bytes,
    out_element: Element,
    predicted: Bytes | None = None,
) -> ProductCounts:
    """Elements `start`.. of a row-major matrix plus the products there: the exact sum, rounded once to nearest even.

    `base` is raw bytes of float `element`s, `out` of `out_element`s. Where the products add exactly nothing the base's
    bits stay (a zero keeps its sign) if both are of one type; any other zero is +0. Into `predicted`, of `element`s,
    goes what the same call with `out` as the base and all weights negated gives. Raises `ValueError` for sizes that do
    not fit.
    """
    native = implementation("merge.products_twin")
    run = native.add_products_f32 if factors.left_MK.dtype == np.float32 else native.add_products_f64
    nonzero, wide, first_bad, first_overflow = run(
        base,
        _code(element),
        start,
        factors.right_KN.shape[1],
        factors.left_MK.reshape(-1),
        factors.right_KN.reshape(-1),
        factors.reach_K,
        factors.weights_K,
        factors.scales_K,
        factors.divisor,
        out,
        _code(out_element),
        predicted,
    )
    return ProductCounts(nonzero=nonzero, wide=wide, first_bad=first_bad, first_overflow=first_overflow)


def _code(element: Element) -> Any:
    if element.code is None:
        raise ValueError(f"expected a float element type, not {element.name}")
    return element.code
