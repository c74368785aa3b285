"""What `combine` and `scan` promise, said again in fractions: one coordinate at a time, none of the package's code."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from spikemesh.kernels import Element, Rule


@dataclass(frozen=True, kw_only=True)
class Window:
    """What `combine` is asked. All sizes fit each other."""

    rule: Rule
    element: Element
    out_element: Element
    inputs: tuple[bytes, ...]
    weights: tuple[int, ...]
    divisor: int = 1
    base: bytes | None = None
    mask: bytes | None = None

    @property
    def num_coordinates(self) -> int:
        return len(self.inputs[0]) // self.element.size_bytes


@dataclass(frozen=True)
class Counts:
    held: int
    nonzero: int
    vanished: int
    first_overflow: int
    first_bad: tuple[int, ...]
    first_bad_base: int


@dataclass(frozen=True)
class Answer:
    """Per coordinate the bytes of the result, or None where it means nothing; and the counts."""

    elements: tuple[bytes | None, ...]
    counts: Counts


# ---- element types ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    fraction_bits: int
    bias: int
    num_special: int
    """How many of the highest bit patterns, without the sign, are infinities or NaN."""


LAYOUTS = {
    "F64": Layout(52, 1023, 1 << 52),
    "F32": Layout(23, 127, 1 << 23),
    "F16": Layout(10, 15, 1 << 10),
    "BF16": Layout(7, 127, 1 << 7),
    "F8_E4M3": Layout(3, 7, 1),
    "F8_E5M2": Layout(2, 15, 1 << 2),
}


def power_of_two(exponent: int) -> Fraction:
    return Fraction(1 << exponent) if exponent >= 0 else Fraction(1, 1 << -exponent)


def sign_bit(element: Element) -> int:
    return 1 << (8 * element.size_bytes - 1)


@cache
def number(code: int, element: Element) -> Fraction | None:
    """The number that a bit pattern stands for; None for infinities and NaN."""
    layout = LAYOUTS[element.name]
    size = code & (sign_bit(element) - 1)
    if size >= sign_bit(element) - layout.num_special:
        return None
    exponent, fraction = divmod(size, 1 << layout.fraction_bits)
    significand = fraction + (1 << layout.fraction_bits) * (exponent > 0)
    value = significand * power_of_two(max(exponent, 1) - layout.bias - layout.fraction_bits)
    return -value if code & sign_bit(element) else value


def numbers(data: bytes, element: Element) -> list[Fraction | None]:
    return [number(code, element) for code in codes(data, element)]


def codes(data: bytes, element: Element) -> list[int]:
    width = element.size_bytes
    return [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width)]


@cache
def largest(element: Element) -> Fraction:
    found = number(sign_bit(element) - LAYOUTS[element.name].num_special - 1, element)
    assert found is not None
    return found


def nearest(x: Fraction, element: Element) -> Fraction:
    """Rounded to the element type's grid, ties to even, without its upper end."""
    if x == 0:
        return x
    layout = LAYOUTS[element.name]
    exponent = abs(x.numerator).bit_length() - x.denominator.bit_length()
    if power_of_two(exponent) > abs(x):
        exponent -= 1
    last_place = power_of_two(max(exponent, 1 - layout.bias) - layout.fraction_bits)
    return round(x / last_place) * last_place


def encoded(x: Fraction, element: Element) -> bytes:
    """The bytes of a number that the element type has. A zero is +0."""
    match element.name:
        case "F64":
            return struct.pack("<d", float(x))
        case "F32":
            return struct.pack("<f", float(x))
        case "F16":
            return struct.pack("<e", float(x))
        case "BF16":
            return struct.pack("<f", float(x))[2:]
        case _:
            return bytes([next(code for code in range(256) if number(code, element) == x)])


# ---- combine ---------------------------------------------------------------------------------------------------------


def value_of(window: Window, column: Sequence[Fraction], base: Fraction, is_masked: bool) -> Fraction:
    """The exact result at one coordinate, whose inputs have the values `column`."""
    terms = [(x - base, weight) for x, weight in zip(column, window.weights, strict=True)]
    held = [(x, weight) for x, weight in terms if x != 0 or is_masked]
    match window.rule:
        case Rule.MEAN:
            return base + _mean(terms)
        case Rule.SUM:
            return base + sum(weight * x for x, weight in terms) / Fraction(window.divisor)
        case Rule.MAX_MAGNITUDE:
            return base + max((abs(x), x) for x, _ in held)[1] if held else base
        case Rule.TRIMMED_MEAN:
            ends = 0 if len(held) < 3 else max(1, len(held) // 4)
            held = sorted(held)[ends : len(held) - ends]
        case Rule.SIGN_ELECT:
            side = sum(weight * x for x, weight in held)
            held = [(x, weight) for x, weight in held if x * side > 0]
    return base + _mean(held) if held else base


def _mean(terms: Sequence[tuple[Fraction, int]]) -> Fraction:
    return Fraction(sum(weight * x for x, weight in terms)) / sum(weight for _, weight in terms)


def combine(window: Window) -> Answer:
    columns = list(zip(*(numbers(data, window.element) for data in window.inputs), strict=True))
    size = window.num_coordinates
    bases = [Fraction(0)] * size if window.base is None else numbers(window.base, window.element)
    masked = [False] * size if window.mask is None else [byte != 0 for byte in window.mask]
    elements: list[bytes | None] = []
    held = nonzero = vanished = 0
    first_overflow = -1
    for at, (column, base, is_masked) in enumerate(zip(columns, bases, masked, strict=True)):
        finite = [x for x in column if x is not None]
        if base is None or len(finite) < len(column):
            elements.append(None)
            continue
        exact = value_of(window, finite, base, is_masked)
        rounded = nearest(exact, window.out_element)
        held += is_masked or any(x != base for x in finite)
        nonzero += rounded != 0
        vanished += rounded == 0 and exact != 0
        if abs(rounded) > largest(window.out_element):
            first_overflow = at if first_overflow < 0 else first_overflow
            elements.append(None)
        else:
            elements.append(encoded(rounded, window.out_element))
    first_bad = tuple(_first_none([column[i] for column in columns]) for i in range(len(window.inputs)))
    return Answer(tuple(elements), Counts(held, nonzero, vanished, first_overflow, first_bad, _first_none(bases)))


def _first_none(values: Sequence[Fraction | None]) -> int:
    return next((at for at, x in enumerate(values) if x is None), -1)


def scan(data: bytes, element: Element) -> tuple[int, int, float, float]:
    """Nonzero, non-finite, smallest, largest."""
    found = numbers(data, element)
    finite = [float(x) for x in found if x is not None]
    return sum(x != 0 for x in found), len(found) - len(finite), min(finite, default=0.0), max(finite, default=0.0)
