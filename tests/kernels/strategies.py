"""Windows of numbers that are hard to add, to divide or to round.

Numbers are drawn as 32 random bits each; a palette says what they mean. Zero bits are a zero in every palette, so that
hypothesis shrinks towards windows that nobody holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from spikemesh.kernels import ELEMENTS, MAX_WEIGHT, Element, Rule
from tests.kernels.reference import LAYOUTS, Window, sign_bit

Codes = npt.NDArray[np.uint64]
FLOATS = tuple(element for element in ELEMENTS.values() if element.kind == "float")


def to_bytes(codes: Codes, element: Element) -> bytes:
    return codes.astype(f"<u{element.size_bytes}").tobytes()


def _limit(element: Element) -> int:
    """The first bit pattern that is not a finite number, without its sign."""
    return sign_bit(element) - LAYOUTS[element.name].num_special


def _signed(sizes: Codes, bits: Codes, element: Element) -> Codes:
    """With the sign that the lowest bit says, and nothing that is not finite."""
    sizes = np.where(sizes < _limit(element), sizes, 0)
    return sizes | np.where(bits % 2 == 1, np.uint64(sign_bit(element)), np.uint64(0))


def anything(bits: Codes, element: Element) -> Codes:
    return _signed(bits * np.uint64(0x9E3779B97F4A7C15) % np.uint64(sign_bit(element)), bits, element)


def ends_of_the_range(bits: Codes, element: Element) -> Codes:
    """Zeros, the smallest and the largest subnormal and normal numbers, and their neighbours."""
    normal = 1 << LAYOUTS[element.name].fraction_bits
    limit = _limit(element)
    sizes = np.array([0, 1, 2, 3, normal - 1, normal, normal + 1, 2 * normal, limit - 1, limit - 2], np.uint64)
    return _signed(sizes[bits // 2 % len(sizes)], bits, element)


def _powers(exponents: npt.NDArray[np.int64], fractions: Codes, element: Element) -> Codes:
    """2^exponent * (1 + fraction), as bit patterns, as far as the range reaches."""
    layout = LAYOUTS[element.name]
    field = np.clip(exponents + layout.bias, 1, (_limit(element) >> layout.fraction_bits) - 1).astype(np.uint64)
    return (field << np.uint64(layout.fraction_bits)) | fractions % np.uint64(1 << layout.fraction_bits)


def halves(bits: Codes, element: Element) -> Codes:
    """Powers of two and one and a half times them: sums and quotients fall half-way between two numbers."""
    half = np.uint64(1 << LAYOUTS[element.name].fraction_bits - 1)
    exponents = (bits // 4 % 7).astype(np.int64) - 3
    return np.where(bits == 0, bits, _signed(_powers(exponents, bits // 2 % 2 * half, element), bits, element))


def close_together(bits: Codes, element: Element) -> Codes:
    """Ones that differ in their last bits: differences are tiny."""
    return np.where(bits == 0, bits, _signed(_powers(bits.astype(np.int64) * 0, bits // 2 % 8, element), bits, element))


def far_apart(bits: Codes, element: Element) -> Codes:
    """Full significands, 2^60 apart: no double holds the sum of two, no pair of doubles that of three."""
    exponents = ((bits // 2 % 5).astype(np.int64) - 2) * 60
    fractions = bits * np.uint64(0x9E3779B97F4A7C15)
    return np.where(bits == 0, bits, _signed(_powers(exponents, fractions, element), bits, element))


PALETTES: Sequence[Callable[[Codes, Element], Codes]] = (
    halves,
    close_together,
    far_apart,
    ends_of_the_range,
    anything,
)


@st.composite
def windows(
    draw: st.DrawFn,
    rule: Rule | None = None,
    element: Element | None = None,
    *,
    max_inputs: int = 6,
    finite: bool = False,
) -> Window:
    rule = draw(st.sampled_from(Rule)) if rule is None else rule
    element = draw(st.sampled_from(FLOATS)) if element is None else element
    size = draw(st.integers(0, 27))
    num_inputs = draw(st.integers(1, max_inputs))
    palettes = draw(st.lists(st.sampled_from(PALETTES), min_size=1, max_size=2))
    inputs: list[Codes] = []
    for slot in range(num_inputs + 1):
        bits = np.frombuffer(draw(st.binary(min_size=4 * size, max_size=4 * size)), "<u4").astype(np.uint64)
        codes = palettes[slot % len(palettes)](bits, element)
        if inputs:  # some coordinates are those of the input before, some the opposite
            like = np.where(bits // 64 % 2, inputs[-1], inputs[-1] ^ np.uint64(sign_bit(element)))
            codes = np.where(bits // 128 % draw(st.sampled_from([2, 4])) == 1, like, codes)
        inputs.append(codes)
    *inputs, base = inputs
    if not finite:
        _spoil(draw, [*inputs, base], element)
    mask = draw(st.none() | st.binary(min_size=size, max_size=size))
    weights, divisor = draw(_weights(num_inputs))
    return Window(
        rule=rule,
        element=element,
        out_element=draw(st.just(element) | st.sampled_from(FLOATS)),
        inputs=tuple(to_bytes(codes, element) for codes in inputs),
        weights=weights,
        divisor=divisor,
        base=draw(st.sampled_from([None, to_bytes(base, element)])),
        mask=None if mask is None else bytes(byte * (byte % 3 == 0) for byte in mask),
    )


@st.composite
def _weights(draw: st.DrawFn, num_inputs: int) -> tuple[tuple[int, ...], int]:
    most = draw(st.sampled_from([1, 7, MAX_WEIGHT // (num_inputs + 1)]))
    weights = draw(st.lists(st.integers(1, most), min_size=num_inputs, max_size=num_inputs))
    left = MAX_WEIGHT - sum(weights)
    return tuple(weights), draw(st.sampled_from([1, 3, left]) | st.integers(1, left))


def _spoil(draw: st.DrawFn, inputs: Sequence[Codes], element: Element) -> None:
    """Now and then, a NaN or an infinity."""
    if not len(inputs[0]) or not draw(st.sampled_from([False, False, False, True])):
        return
    specials = [_limit(element), sign_bit(element) - 1, 2 * sign_bit(element) - 1]
    for slot, at, code in draw(
        st.lists(
            st.tuples(st.integers(0, len(inputs) - 1), st.integers(0, len(inputs[0]) - 1), st.sampled_from(specials)),
            max_size=3,
        )
    ):
        inputs[slot][at] = code
