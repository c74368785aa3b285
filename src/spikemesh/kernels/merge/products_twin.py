"""The NumPy twin of `add_products`: the same bytes as the compiled code.

A product in double has a bound on its error, whatever the order of its sums (Higham 2002, 3.1). Where the numbers below
and above by the bound round to the same, so does the exact sum; the other elements go one by one through fractions.

Shapes: M row, K term, N column, A element of the stretch.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from spikemesh.kernels.merge.combine_twin import (
    NONE,
    Bytes,
    Doubles,
    Format,
    _first,
    _format,
    _near,
    _require,
    decode,
    encode,
    round_to,
)

MAX_INTEGER = 1 << 28
SMALLEST = 2.0**-500
LARGEST_BOUND = 2.0**1000


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The products over the rows that a stretch touches; elements are counted from the first of these rows."""

    left_MK: npt.NDArray[Any]
    right_KN: npt.NDArray[Any]
    weights: list[int]
    scales: list[float]
    divisor: int

    def exactly(self, at: int) -> Fraction:
        """What the products add to one element."""
        row, column = divmod(at, self.right_KN.shape[1])
        lefts, rights = self.left_MK[row].tolist(), self.right_KN[:, column].tolist()
        terms = zip(self.weights, self.scales, lefts, rights, strict=True)
        return sum((w * Fraction(s) * Fraction(x) * Fraction(y) for w, s, x, y in terms), Fraction()) / self.divisor


@dataclass(frozen=True, kw_only=True)
class Sums:
    """The products in double and what they may be off by: 0 where they are nothing at all."""

    terms: Terms
    first: int
    values_A: Doubles
    bounds_A: Doubles


def _sums(terms: Terms, reach_K: Doubles, start: int, size: int) -> Sums:
    columns = terms.right_KN.shape[1]
    coefficients = np.array(terms.weights, np.float64) * np.array(terms.scales, np.float64) / terms.divisor
    first = start % columns
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        left_MK = coefficients * terms.left_MK.astype(np.float64)
        most_MK = np.abs(left_MK) * reach_K
        counts_MK = (terms.left_MK != 0) & (coefficients != 0) & (reach_K != 0)
        is_tiny_M = (counts_MK & ((np.abs(left_MK) < SMALLEST) | (most_MK < SMALLEST))).any(axis=1)
        reach_M = most_MK.sum(axis=1)
        unit = (len(terms.weights) + 10) * 2.0**-52
        bounds_M = np.where(is_tiny_M, np.inf, np.where(reach_M == 0, 0.0, reach_M * unit + 2.0**-1000))
        values = (left_MK @ terms.right_KN.astype(np.float64)).reshape(-1)
    return Sums(
        terms=terms,
        first=first,
        values_A=values[first : first + size],
        bounds_A=np.repeat(bounds_M, columns)[first : first + size],
    )


def _rounded(base: Bytes, of: Format, to: Format, sums: Sums, sign: int) -> tuple[Bytes, Doubles, int]:
    """Bytes and numbers of base plus or minus the sums, and how many fractions decided."""
    base_A = decode(base, of)
    width, is_kept_A = to.size_bytes, sums.bounds_A == 0
    with np.errstate(over="ignore", invalid="ignore"):
        near_A = base_A + sign * sums.values_A
        bounds_A = np.where(is_kept_A, 0.0, sums.bounds_A + np.abs(near_A) * 2.0**-51)
        near_A = np.where(is_kept_A, base_A, near_A)
        low_A, high_A = round_to(near_A - bounds_A, to), round_to(near_A + bounds_A, to)
    is_certain_A = (low_A == high_A) & (bounds_A <= LARGEST_BOUND)
    unsure = np.flatnonzero(~is_certain_A & np.isfinite(base_A)).tolist()
    for at in unsure:
        added = sign * sums.terms.exactly(sums.first + at)
        is_kept_A[at] = added == 0
        high_A[at] = float(round_to(np.array([_near(Fraction(float(base_A[at])) + added, to)]), to)[0])
    data = encode(high_A, to).reshape(-1, width).copy()
    data[~(np.abs(high_A) <= to.largest)] = 0xFF
    if of is to:
        kept = is_kept_A & np.isfinite(base_A)
        data[kept] = base.reshape(-1, width)[kept]
    return data.reshape(-1), high_A, len(unsure)


def _add_products(
    real: type,
    base: Bytes,
    element: int,
    start: int,
    columns: int,
    left: npt.NDArray[Any],
    right: npt.NDArray[Any],
    reach: Doubles,
    weights: npt.NDArray[np.int64],
    scales: Doubles,
    divisor: int,
    out: Bytes,
    out_element: int,
    predicted: Bytes | None,
) -> tuple[int, int, int, int]:
    of, to = _format(element, "unknown element type"), _format(out_element, "unknown element type")
    _require(left.dtype == real and right.dtype == real, "expected factors of one type")
    _require(out.size % to.size_bytes == 0, "out does not hold whole elements")
    size, num_terms = out.size // to.size_bytes, weights.size
    _require(base.size == size * of.size_bytes, "expected a base of the size of out")
    _require(predicted is None or predicted.size == base.size, "expected a prediction of the size of the base")
    _require(columns > 0 and start >= 0, "expected a place in a matrix")
    _require(scales.size == num_terms and reach.size == num_terms, "expected one scale per term")
    _require(right.size == num_terms * columns, "expected [terms, columns] on the right")
    rows = -(-(start + size) // columns) if num_terms == 0 else left.size // num_terms
    _require(left.size == rows * num_terms and rows * columns >= start + size, "expected [rows, terms] on the left")
    _require(0 < divisor <= MAX_INTEGER, "expected a divisor of 1 to 2**28")
    _require(all(abs(weight) <= MAX_INTEGER for weight in weights.tolist()), "expected weights of up to 2**28")
    if size == 0:
        return 0, 0, NONE, NONE
    touched = slice(start // columns, -(-(start + size) // columns))
    terms = Terms(
        left_MK=left.reshape(rows, num_terms)[touched],
        right_KN=right.reshape(num_terms, columns),
        weights=weights.tolist(),
        scales=scales.tolist(),
        divisor=divisor,
    )
    sums = _sums(terms, reach, start, size)
    data, written_A, wide = _rounded(base, of, to, sums, 1)
    out[:] = data
    if predicted is not None:
        predicted[:] = _rounded(data, to, of, sums, -1)[0]
    first_bad = _first(~np.isfinite(decode(base, of)), 0, NONE)
    first_overflow = _first(~(np.abs(written_A) <= to.largest), 0, NONE)
    return int(np.count_nonzero(written_A)), wide, first_bad, first_overflow


def add_products_f32(*asked: Any) -> tuple[int, int, int, int]:
    """`add_products` as compiled, for factors in float32: nonzero, wide, first bad, first overflow."""
    return _add_products(np.float32, *asked)


def add_products_f64(*asked: Any) -> tuple[int, int, int, int]:
    """The same for factors in float64."""
    return _add_products(np.float64, *asked)
