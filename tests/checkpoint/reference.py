"""What a merge should give, one coordinate at a time, in fractions and with no thought of speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from spikemesh.kernels import ELEMENTS


@dataclass(frozen=True)
class Format:
    """A binary floating-point format: bits of the mantissa, exponent bias, largest finite bit pattern."""

    num_bytes: int
    mantissa: int
    bias: int
    largest: int

    def value(self, bits: int) -> Fraction:
        sign = -1 if bits >> (8 * self.num_bytes - 1) else 1
        bits &= (1 << (8 * self.num_bytes - 1)) - 1
        exponent, rest = bits >> self.mantissa, bits & ((1 << self.mantissa) - 1)
        if exponent:
            rest |= 1 << self.mantissa
        return sign * rest * Fraction(2) ** (max(exponent, 1) - self.bias - self.mantissa)

    def is_finite(self, bits: int) -> bool:
        return bits & ((1 << (8 * self.num_bytes - 1)) - 1) <= self.largest

    def nearest(self, value: Fraction) -> int:
        """The bits of the nearest number, ties to even; `OverflowError` beyond the largest. Zero has no sign."""
        if value == 0:
            return 0
        size, exponent = abs(value), 1
        while size >= Fraction(2) ** (exponent + 1 - self.bias):
            exponent += 1
        units = round(size / Fraction(2) ** (exponent - self.bias - self.mantissa))
        bits = ((exponent - 1) << self.mantissa) + units  # carries into the exponent by itself
        if bits > self.largest:
            raise OverflowError
        return bits | (1 << (8 * self.num_bytes - 1) if value < 0 and bits else 0)


FORMATS = {
    "F64": Format(8, 52, 1023, 0x7FEFFFFFFFFFFFFF),
    "F32": Format(4, 23, 127, 0x7F7FFFFF),
    "F16": Format(2, 10, 15, 0x7BFF),
    "BF16": Format(2, 7, 127, 0x7F7F),
    "F8_E4M3": Format(1, 3, 7, 0x7E),
    "F8_E5M2": Format(1, 2, 15, 0x7B),
}


def decode(element: str, data: bytes) -> list[Fraction]:
    form = FORMATS[element]
    return [
        form.value(int.from_bytes(data[at : at + form.num_bytes], "little"))
        for at in range(0, len(data), form.num_bytes)
    ]


def encode(element: str, values: Sequence[Fraction]) -> bytes:
    form = FORMATS[element]
    return b"".join(form.nearest(value).to_bytes(form.num_bytes, "little") for value in values)


def is_nonzero(element: str, data: bytes) -> list[bool]:
    """Of the elements of a mask, of any type."""
    if element in FORMATS:
        return [value != 0 for value in decode(element, data)]
    width = ELEMENTS[element].size_bytes
    return [any(data[at : at + width]) for at in range(0, len(data), width)]


def combine(
    rule: str,
    values: Sequence[Fraction],
    weights: Sequence[Fraction],
    base: Fraction = Fraction(0),
    masked: bool = False,
) -> Fraction:
    """One coordinate. The rules as `kernels.Rule` says them."""
    terms = [(value - base, weight) for value, weight in zip(values, weights, strict=True)]
    held = [term for term in terms if masked or term[0] != 0]
    if not held:
        return base
    if rule == "sum":
        return base + sum(weight * value for value, weight in terms)
    if rule == "mean":
        return base + _mean(terms)
    if rule == "max-magnitude":
        return base + max((value for value, _ in held), key=lambda value: (abs(value), value))
    if rule == "trimmed-mean":
        num_cut = 0 if len(held) < 3 else max(1, len(held) // 4)
        held = sorted(held)[num_cut : len(held) - num_cut]
    if rule == "sign-elect":
        side = sum(weight * value for value, weight in held)
        held = [term for term in held if term[0] * side > 0]
    return base + (_mean(held) if held else 0)


def _mean(terms: Sequence[tuple[Fraction, Fraction]]) -> Fraction:
    return sum(weight * value for value, weight in terms) / sum((weight for _, weight in terms), Fraction(0))
