"""The NumPy twin of `combine` and `scan`: the same bytes and counts as the compiled code, by a plainer way.

Values of up to 24 bits go as arrays. Their weighted sum is an exact pair of doubles (TwoSum, Knuth 1969), and how its
quotient rounds is decided by comparing it, exactly, with the one number near it at which the rounding turns. What does
not fit the pair goes coordinate by coordinate through fractions, and so do doubles.

Shapes: I input, A coordinate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

ACTIVE_MEAN, MEAN, SUM, TRIMMED_MEAN, SIGN_ELECT, MAX_MAGNITUDE = range(6)
"""The same numbers as in combine.py."""

NONE = -1
STRETCH = 1 << 14
"""Coordinates that are worked on at a time, so that memory is bounded and mostly cached."""


# ---- element types ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """A binary floating-point format: numbers of `precision` significand bits, the hidden one included."""

    name: str
    size_bytes: int
    precision: int
    min_exponent: int
    """Of the smallest normal number."""
    largest: float


F64 = Format("F64", 8, 53, -1022, float.fromhex("0x1.fffffffffffffp1023"))
FORMATS = (
    F64,
    Format("F32", 4, 24, -126, float.fromhex("0x1.fffffep127")),
    Format("F16", 2, 11, -14, 65504.0),
    Format("BF16", 2, 8, -126, float.fromhex("0x1.fep127")),
    Format("F8_E4M3", 1, 4, -6, 448.0),
    Format("F8_E5M2", 1, 3, -14, 57344.0),
)
"""By the codes of `elements.py`."""


@cache
def _eighths(format: Format) -> Doubles:
    """The numbers of an 8-bit format by their bits: ascending, NaN past the largest, then the same with a sign."""
    fraction_bits = format.precision - 1
    exponents, fractions = np.divmod(np.arange(128), 1 << fraction_bits)
    significands = fractions + np.where(exponents > 0, 1 << fraction_bits, 0)
    values = np.ldexp(significands, np.maximum(exponents, 1) - 1 + format.min_exponent - fraction_bits)
    values[values > format.largest] = np.nan
    return np.concatenate([values, -values])


def decode(data: Bytes, format: Format) -> Doubles:
    """The numbers that raw little-endian bytes hold."""
    with np.errstate(invalid="ignore"):  # a signalling NaN is as good as another
        if format.size_bytes == 1:
            return _eighths(format)[data]
        if format.name == "BF16":
            return (data.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return data.view(f"<f{format.size_bytes}").astype(np.float64)


def round_to(values: Doubles, format: Format) -> Doubles:
    """Each to the nearest number of the format, ties to even, as if it had no largest one. A zero is +0."""
    last_place = np.maximum(np.frexp(values)[1], format.min_exponent + 1) - format.precision
    with np.errstate(over="ignore"):
        rounded: Doubles = np.ldexp(np.rint(np.ldexp(values, -last_place)), last_place) + 0.0
    return rounded


def encode(rounded: Doubles, format: Format) -> Bytes:
    """The bytes of numbers of the format; for what is beyond its range, any."""
    with np.errstate(over="ignore"):
        if format.size_bytes == 1:
            codes = np.searchsorted(_eighths(format)[:128], np.abs(rounded))  # NaN counts as largest
            return (codes + np.where(rounded < 0, 0x80, 0)).astype(np.uint8)
        if format.name == "BF16":
            return (rounded.astype(np.float32).view(np.uint32) >> 16).astype("<u2").view(np.uint8)
        return rounded.astype(f"<f{format.size_bytes}").view(np.uint8)


# ---- sums and quotients ----------------------------------------------------------------------------------------------


def _two_sum(a: Doubles, b: Doubles) -> tuple[Doubles, Doubles]:
    """The rounded sum and its error, which together are the sum."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@dataclass(frozen=True)
class Sum:
    """`high + low`, exactly unless `lost`; `high` is that sum rounded to double."""

    high: Doubles
    low: Doubles
    lost: Mask


def _exact_sum(products: Iterable[Doubles]) -> Sum:
    high = low = np.zeros(())
    lost = np.zeros((), np.bool_)
    for product in products:
        high, error = _two_sum(high, product)
        low, error = _two_sum(low, error)
        lost = lost | (error != 0)
    return Sum(*_two_sum(high, low), lost)


def _near_quotient(total: Sum, by: Doubles, format: Format) -> Doubles:
    """Numbers that the format rounds as it rounds the exact quotients.

    With one bit more than the format has, the number nearest to the quotient is the only one near it at which the
    rounding may turn. Times `by` it still fits a double, so the side on which the quotient lies is exact.
    """
    turn = round_to(total.high / by, replace(format, precision=format.precision + 1))
    rest = (total.high - turn * by) + total.low
    return np.where(rest == 0, turn, np.nextafter(turn, np.copysign(np.inf, rest)))


# ---- the rules -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Some coordinates of a window: all numbers are finite. `held` says which inputs hold which coordinates."""

    rule: int
    values_IA: Doubles
    weights: Sequence[int]
    divisor: int
    base_A: Doubles
    masked_A: Mask
    held_IA: Mask

    @property
    def weights_I1(self) -> Doubles:
        return np.array(self.weights, np.float64)[:, None]


def _num_trimmed(num_held: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.where(num_held < 3, 0, np.maximum(1, num_held // 4))


def _without_ends(stretch: Stretch) -> Mask:
    """Who is left of those who hold a coordinate: sorted by value, then by weight, so that order cannot matter."""
    num_held_A = stretch.held_IA.sum(axis=0)
    values_IA = np.where(stretch.held_IA, stretch.values_IA, np.inf)  # they come last
    order_IA = np.lexsort((np.broadcast_to(stretch.weights_I1, values_IA.shape), values_IA), axis=0)
    ranks_IA = np.argsort(order_IA, axis=0)
    dropped_A = _num_trimmed(num_held_A)
    left_IA: Mask = (ranks_IA >= dropped_A) & (ranks_IA < num_held_A - dropped_A)
    return left_IA


def _on_elected_side(stretch: Stretch) -> tuple[Mask, Mask]:
    """Who lies on the side of the base that the weighted sum of the differences lies on; where that is not known."""
    weights_IA = np.where(stretch.held_IA, stretch.weights_I1, 0.0)
    total = _exact_sum([*(weights_IA * stretch.values_IA), -weights_IA.sum(axis=0) * stretch.base_A])
    sides_IA = np.sign(stretch.values_IA - stretch.base_A)
    return stretch.held_IA & (sides_IA != 0) & (sides_IA == np.sign(total.high)), total.lost


def _furthest(stretch: Stretch) -> Doubles:
    """The held value that is furthest from the base; of two as far, the larger."""
    best_A, high_A, low_A = stretch.base_A, np.full(stretch.base_A.shape, -1.0), np.zeros(stretch.base_A.shape)
    for values_A, held_A in zip(stretch.values_IA, stretch.held_IA, strict=True):
        high, low = _two_sum(values_A, -stretch.base_A)
        sign = np.where(high < 0, -1.0, 1.0)
        high, low = sign * high, sign * low
        is_level = (high == high_A) & ((low > low_A) | ((low == low_A) & (values_A > best_A)))
        is_better = held_A & ((high > high_A) | is_level)
        best_A, high_A, low_A = (
            np.where(is_better, new, old) for new, old in ((values_A, best_A), (high, high_A), (low, low_A))
        )
    return best_A


def _as_arrays(stretch: Stretch, format: Format) -> tuple[Doubles, Mask]:
    """Numbers that the format rounds as it rounds the rule's results; where that is not known."""
    if stretch.rule == MAX_MAGNITUDE:
        return _furthest(stretch), np.zeros(stretch.base_A.shape, np.bool_)
    chosen_IA, lost_A = stretch.held_IA, np.zeros(stretch.base_A.shape, np.bool_)
    if stretch.rule in (MEAN, SUM):
        chosen_IA = np.ones_like(chosen_IA)
    elif stretch.rule == TRIMMED_MEAN:
        chosen_IA = _without_ends(stretch)
    elif stretch.rule == SIGN_ELECT:
        chosen_IA, lost_A = _on_elected_side(stretch)
    weights_IA = np.where(chosen_IA, stretch.weights_I1, 0.0)
    products, by_A = [*(weights_IA * stretch.values_IA)], weights_IA.sum(axis=0)
    if stretch.rule == SUM:
        products.append((stretch.divisor - by_A) * stretch.base_A)
        by_A = np.full(by_A.shape, float(stretch.divisor))
    total, is_empty_A = _exact_sum(products), by_A == 0
    by_A = np.where(is_empty_A, 1.0, by_A)
    if format is F64:
        near_A, lost_A = total.high / by_A, lost_A | (total.low != 0)
    else:
        near_A = _near_quotient(total, by_A, format)
    return np.where(is_empty_A, stretch.base_A, near_A), lost_A | total.lost


def _exactly(stretch: Stretch, at: int) -> Fraction:
    """The rule's result at one coordinate that somebody holds."""
    base = Fraction(float(stretch.base_A[at]))
    is_held = np.ones(len(stretch.weights), np.bool_) if stretch.rule in (MEAN, SUM) else stretch.held_IA[:, at]
    held = [
        (Fraction(float(stretch.values_IA[i, at])) - base, stretch.weights[i]) for i in np.flatnonzero(is_held).tolist()
    ]
    if stretch.rule == MAX_MAGNITUDE:
        return base + max(held, key=lambda term: (abs(term[0]), term[0]))[0]
    if stretch.rule == TRIMMED_MEAN:
        dropped = int(_num_trimmed(np.array(len(held))))
        held = sorted(held)[dropped : len(held) - dropped]
    elif stretch.rule == SIGN_ELECT:
        elected = sum(weight * difference for difference, weight in held)
        held = [(difference, weight) for difference, weight in held if difference * elected > 0]
    total = sum((weight * difference for difference, weight in held), Fraction())
    by = stretch.divisor if stretch.rule == SUM else sum(weight for _, weight in held)
    return base + total / by if held else base


def _near(exact: Fraction, format: Format) -> float:
    """A double that the format rounds as it rounds the exact number: rounded to odd (Boldo & Melquiond 2008)."""
    try:
        near = exact.numerator / exact.denominator
    except OverflowError:
        return math.inf if exact > 0 else -math.inf
    is_odd = int(near / math.ulp(near)) % 2 == 1
    if format is F64 or is_odd or near == exact:
        return near
    return math.nextafter(near, math.inf if exact > near else -math.inf)


def _resolve(stretch: Stretch, of: Format, to: Format) -> tuple[Doubles, Mask]:
    """Numbers that the format `to` rounds as it rounds the rule's results, and which of these are zero."""
    if of is F64:
        # What nobody holds is the base, and what one input alone holds is its value.
        num_held_A = stretch.held_IA.sum(axis=0)
        first_holder_1A = stretch.held_IA.argmax(axis=0)[None]
        near_A = np.where(
            num_held_A == 0, stretch.base_A, np.take_along_axis(stretch.values_IA, first_holder_1A, axis=0)[0]
        )
        lost_A = num_held_A > (0 if stretch.rule in (MEAN, SUM) else 1)
    else:
        near_A, lost_A = _as_arrays(stretch, to)
    is_zero_A = near_A == 0
    for at in np.flatnonzero(lost_A).tolist():
        exact = _exactly(stretch, at)
        near_A[at], is_zero_A[at] = _near(exact, to), exact == 0
    return near_A, is_zero_A


# ---- a window --------------------------------------------------------------------------------------------------------


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def _format(code: int, message: str) -> Format:
    _require(0 <= code < len(FORMATS), message)
    return FORMATS[code]


def _stretches(size: int) -> Iterator[slice]:
    for start in range(0, size, STRETCH):
        yield slice(start, min(start + STRETCH, size))


def _first(where: Mask, start: int, found: int) -> int:
    return found if found != NONE or not where.any() else start + int(where.argmax())


def combine(
    rule: int,
    inputs: Sequence[Bytes],
    weights: Sequence[int],
    divisor: int,
    base: Bytes | None,
    mask: Bytes | None,
    element: int,
    out_element: int,
    out: Bytes,
) -> tuple[int, int, int, int, list[int], int]:
    """`combine` as compiled: held, nonzero, vanished, first overflow, first bad per input, first bad of the base."""
    _require(0 <= rule <= MAX_MAGNITUDE, "unknown rule")
    of, to = _format(element, "unknown element type"), _format(out_element, "unknown element type")
    _require(1 <= len(inputs) <= 256, "expected 1 to 256 inputs")
    _require(len(inputs) == len(weights), "expected one weight per input")
    _require(out.size % to.size_bytes == 0, "out does not hold whole elements")
    size = out.size // to.size_bytes
    _require(all(data.size == size * of.size_bytes for data in inputs), "expected inputs of the size of out")
    _require(all(0 < weight <= 1 << 28 for weight in weights), "expected weights of 1 to 2**28")
    _require(
        divisor > 0 and sum(weights) + divisor <= 1 << 28, "expected weights and divisor of at most 2**28 together"
    )
    _require(base is None or base.size == size * of.size_bytes, "expected a base of the size of out")
    _require(mask is None or mask.size == size, "expected one mask byte per coordinate")

    held = nonzero = vanished = 0
    first_overflow, first_bad, first_bad_base = NONE, [NONE] * len(inputs), NONE
    for window in _stretches(size):
        of_bytes = slice(window.start * of.size_bytes, window.stop * of.size_bytes)
        to_bytes = slice(window.start * to.size_bytes, window.stop * to.size_bytes)
        count = window.stop - window.start
        values_IA = np.stack([decode(data[of_bytes], of) for data in inputs])
        base_A = np.zeros(count) if base is None else decode(base[of_bytes], of)
        masked_A = np.zeros(count, np.bool_) if mask is None else mask[window] != 0
        bad_IA, bad_base_A = ~np.isfinite(values_IA), ~np.isfinite(base_A)
        bad_A = bad_IA.any(axis=0) | bad_base_A
        values_IA[:, bad_A] = base_A[bad_A] = masked_A[bad_A] = 0  # zero, and counted as nothing but bad
        held_IA = (values_IA != base_A) | masked_A
        near_A, is_zero_A = _resolve(
            Stretch(
                rule=rule,
                values_IA=values_IA,
                weights=weights,
                divisor=divisor,
                base_A=base_A,
                masked_A=masked_A,
                held_IA=held_IA,
            ),
            of,
            to,
        )
        written_A = round_to(near_A, to)
        out[to_bytes] = encode(written_A, to)
        held += int(np.count_nonzero(held_IA.any(axis=0)))
        nonzero += int(np.count_nonzero(written_A))
        vanished += int(np.count_nonzero((written_A == 0) & ~is_zero_A))
        first_overflow = _first(np.abs(written_A) > to.largest, window.start, first_overflow)
        first_bad_base = _first(bad_base_A, window.start, first_bad_base)
        first_bad = [_first(bad, window.start, found) for bad, found in zip(bad_IA, first_bad, strict=True)]
    return held, nonzero, vanished, first_overflow, first_bad, first_bad_base


def scan(data: Bytes, element: int) -> tuple[int, int, float, float]:
    """`scan` as compiled: nonzero, non-finite, smallest, largest."""
    message = "expected whole elements of a known type"
    format = _format(element, message)
    _require(data.size % format.size_bytes == 0, message)
    nonzero = non_finite = 0
    smallest, largest = math.inf, -math.inf
    for window in _stretches(data.size // format.size_bytes):
        values = decode(data[window.start * format.size_bytes : window.stop * format.size_bytes], format)
        finite = values[np.isfinite(values)]
        nonzero += int(np.count_nonzero(values))
        non_finite += values.size - finite.size
        smallest, largest = finite.min(initial=smallest), finite.max(initial=largest)
    if smallest > largest:
        return nonzero, non_finite, 0.0, 0.0
    return nonzero, non_finite, float(smallest) + 0.0, float(largest) + 0.0
