"""`combine`: each implementation against the reference in fractions, byte for byte and count for count."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import gcd

import numpy as np
import pytest
import torch
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

import spikemesh.kernels as kernels
from spikemesh.kernels import ELEMENTS, MAX_INPUTS, MAX_WEIGHT, Element, Rule
from spikemesh.kernels.merge import combine_twin as twin
from tests.kernels import reference
from tests.kernels.implementations import ALL, COMPILED, combine
from tests.kernels.reference import Counts, Window
from tests.kernels.strategies import FLOATS, windows

pytestmark = pytest.mark.filterwarnings("error")

F64, F32, F16, BF16, F8 = (ELEMENTS[name] for name in ("F64", "F32", "F16", "BF16", "F8_E4M3"))
HOLDING = (Rule.ACTIVE_MEAN, Rule.TRIMMED_MEAN, Rule.SIGN_ELECT, Rule.MAX_MAGNITUDE)
"""The rules that ask only those who hold a coordinate."""

by_rule = pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.name.lower())
by_element = pytest.mark.parametrize("element", FLOATS, ids=lambda element: element.name)
by_implementation = pytest.mark.parametrize("implementation", ALL)


def elements(data: bytes, element: Element) -> list[bytes]:
    return [data[at : at + element.size_bytes] for at in range(0, len(data), element.size_bytes)]


def check(window: Window, implementations: Sequence[str] = ALL) -> reference.Answer:
    """All implementations say what the reference says."""
    expected = reference.combine(window)
    for name in implementations:
        data, counts = combine(name, window)
        assert counts == expected.counts, name
        for at, (got, want) in enumerate(zip(elements(data, window.out_element), expected.elements, strict=True)):
            assert want is None or got == want, (name, at, got.hex(), want.hex())
    return expected


def window_of(rule: Rule, element: Element, *inputs: Sequence[float], **rest: object) -> Window:
    """A window of numbers that the element type has."""
    base = rest.pop("base", None)
    assert base is None or isinstance(base, list)
    made = Window(
        rule=rule,
        element=element,
        out_element=element,
        inputs=tuple(to_bytes(values, element) for values in inputs),
        weights=(1,) * len(inputs),
        base=None if base is None else to_bytes(base, element),
    )
    return replace(made, **rest)  # type: ignore[arg-type]


def to_bytes(values: Sequence[float], element: Element) -> bytes:
    return b"".join(reference.encoded(Fraction(value), element) for value in values)


# ---- against the reference -------------------------------------------------------------------------------------------


@by_element
@by_rule
@settings(max_examples=20)
@given(data=st.data())
def test_every_rule_and_element_type(rule: Rule, element: Element, data: st.DataObject) -> None:
    check(data.draw(windows(rule, element)))


@by_rule
@settings(max_examples=6)
@given(data=st.data())
def test_many_inputs(rule: Rule, data: st.DataObject) -> None:
    check(data.draw(windows(rule, max_inputs=24)))


@by_rule
@by_element
def test_as_many_inputs_as_there_may_be_with_all_the_weight_there_is(rule: Rule, element: Element) -> None:
    rng = random.Random(f"{rule} {element}")
    palette = [0.0, 1.0, -1.0, 1.5, -0.5, 0.25]
    window = window_of(
        rule,
        element,
        *([rng.choice(palette) for _ in range(9)] for _ in range(MAX_INPUTS)),
        weights=(MAX_WEIGHT // MAX_INPUTS - 1,) * MAX_INPUTS,
        divisor=MAX_INPUTS,
    )
    assert sum(window.weights) + window.divisor == MAX_WEIGHT
    check(window)


@by_implementation
@settings(max_examples=40)
@given(window=windows(max_inputs=5), times=st.integers(20, 60))
def test_long_windows_are_many_short_ones(implementation: str, window: Window, times: int) -> None:
    """Past the stretches of 512 that the compiled code tallies, and with every lane and tail."""
    short, counts = combine(implementation, window)
    long, long_counts = combine(implementation, repeated(window, times))
    assert long == short * times
    assert long_counts == replace(
        counts, held=counts.held * times, nonzero=counts.nonzero * times, vanished=counts.vanished * times
    )


@by_implementation
@settings(max_examples=60)
@given(window=windows(Rule.ACTIVE_MEAN, F32, max_inputs=2), weight=st.integers(1, 1000))
def test_the_mean_of_a_pair(implementation: str, window: Window, weight: int) -> None:
    """The compiled code has a way of its own for two inputs with one weight, in stretches of 512."""
    pair = replace(
        window,
        out_element=F32,
        inputs=(window.inputs[0], window.inputs[-1]),
        weights=(weight, weight),
        divisor=1,
        base=None,
        mask=None,
    )
    times = 600 // max(1, pair.num_coordinates) + 1
    expected = reference.combine(pair)
    result, counts = combine(implementation, repeated(pair, times))
    assert (counts.held, counts.nonzero, counts.vanished) == (
        expected.counts.held * times,
        expected.counts.nonzero * times,
        expected.counts.vanished * times,
    )
    assert (counts.first_overflow, counts.first_bad) == (expected.counts.first_overflow, expected.counts.first_bad)
    for got, want in zip(elements(result, F32), expected.elements * times, strict=True):
        assert want is None or got == want


def repeated(window: Window, times: int) -> Window:
    return replace(
        window,
        inputs=tuple(data * times for data in window.inputs),
        base=None if window.base is None else window.base * times,
        mask=None if window.mask is None else window.mask * times,
    )


@by_implementation
def test_first_is_counted_from_the_start_of_the_window(implementation: str) -> None:
    size = twin.STRETCH + 5000
    first, second, base = np.ones((3, size), np.float32)
    first[twin.STRETCH + 700 :: 11] = np.nan
    second[twin.STRETCH + 1300 :: 13] = -np.inf
    first[900], second[901:903] = 3e38, 3.2e38
    base[twin.STRETCH + 3] = np.inf
    window = Window(
        rule=Rule.SUM,
        element=F32,
        out_element=F32,
        inputs=(first.tobytes(), second.tobytes()),
        weights=(2, 1),
        base=base.tobytes(),
    )
    _, counts = combine(implementation, window)
    assert (counts.first_bad, counts.first_bad_base) == (
        (twin.STRETCH + 700, twin.STRETCH + 1300),
        twin.STRETCH + 3,
    )
    assert counts.first_overflow == 900
    assert counts.held == 3


@by_element
@by_implementation
def test_a_bad_coordinate_is_in_no_other_count(implementation: str, element: Element) -> None:
    size = element.size_bytes
    nan = (reference.sign_bit(element) - 1).to_bytes(size, "little")
    largest = reference.encoded(reference.largest(element), element)
    for rule in Rule:
        window = Window(
            rule=rule,
            element=element,
            out_element=element,
            inputs=(nan + largest, largest + nan),
            weights=(1, 1),
            mask=b"\1\1",
        )
        _, counts = combine(implementation, window)
        assert counts == Counts(0, 0, 0, -1, (0, 1), -1)


# ---- hard numbers ----------------------------------------------------------------------------------------------------


def beside_half_way(rng: random.Random) -> tuple[int, int, int, int]:
    """(value, weight, divisor, quarters): value * weight / divisor is a hair from quarters / 4, which is half-way.

    The hair is 1 / (4 * divisor), less than a double can tell: quarters is odd and has 25 bits, where F32 has 24.
    """
    while True:
        value, quarters = rng.randrange(1 << 23, 1 << 24), rng.randrange(1 << 24, 1 << 25) | 1
        side = rng.choice([1, -1])
        if gcd(4 * value, quarters) != 1:
            continue
        weight = side * pow(4 * value, -1, quarters) % quarters
        divisor = (4 * value * weight - side) // quarters
        if weight + 8 < divisor < MAX_WEIGHT:
            return value, weight, divisor, quarters


@pytest.mark.parametrize("cancelled", [0.0, 2.0**40, 2.0**100])
def test_a_hair_beside_half_way(cancelled: float) -> None:
    """Also when large numbers come and go meanwhile, so that the sum's lower half holds all of it."""
    rng = random.Random(0)
    for _ in range(50):
        value, weight, divisor, quarters = beside_half_way(rng)
        scale = 2.0 ** rng.choice([0, -20, -149]) * rng.choice([1, -1])
        exact = Fraction(value * weight, divisor)
        assert 0 < abs(exact - Fraction(quarters, 4)) * 4 * divisor <= 1
        window = window_of(
            Rule.MEAN,
            F32,
            [cancelled],
            [value * scale],
            [-cancelled],
            [0.0],
            weights=(3, weight, 3, divisor - weight - 6),
        )
        check(window)


@pytest.mark.parametrize("hair", [0.0, 2.0**-30, -(2.0**-60), 2.0**-100, -(2.0**-100)])
def test_a_tie_and_a_hair(hair: float) -> None:
    """The sum is half-way between two numbers times the divisor, and a hair more or less."""
    rng = random.Random(3)
    for _ in range(30):
        half_way = rng.randrange(1 << 24, 1 << 25) | 1
        divisor = rng.choice([4, 5, 6, 7, 1000, rng.randrange(4, 1 << 20)])
        shift = (half_way * divisor).bit_length() - 24
        high = half_way * divisor >> shift << shift
        scale = 2.0 ** rng.choice([0, -30, 60]) * rng.choice([1, -1])
        values = ([high * scale], [(half_way * divisor - high) * scale], [hair], [0.0])
        check(window_of(Rule.MEAN, F32, *values, weights=(1, 1, 1, divisor - 3)))


def test_what_a_cancellation_leaves() -> None:
    """The sum's upper and lower halves are of one size, and all but cancel."""
    rng = random.Random(1)
    for _ in range(60):
        weight, filler = rng.randrange(1, 9), rng.randrange(1, 1 << 24)
        ones = [1 + rng.randrange(1 << 23) * 2.0**-23 for _ in range(64)]
        others = [-(x + rng.randrange(1, 9) * 2.0**-23) for x in ones]
        window = window_of(
            Rule.MEAN,
            F32,
            *([2.0**90] * 64, ones, [-(2.0**90)] * 64, others, [0.0] * 64),
            weights=(3, weight, 3, weight, filler),
        )
        check(window)


@pytest.mark.parametrize("element", [F32, F16, BF16, F8], ids=lambda element: element.name)
def test_double_results_are_rounded_once(element: Element) -> None:
    """F64 is where the quotient itself is the result, and the sum does not always fit."""
    rng = random.Random(2)
    for rule in Rule:
        for _ in range(20):
            inputs = [[rng.randrange(-8, 9) * 2.0 ** rng.randrange(-6, 6) for _ in range(8)] for _ in range(3)]
            weights = tuple(rng.randrange(1, 1 << 20) for _ in inputs)
            check(window_of(rule, element, *inputs, weights=weights, divisor=7, out_element=F64))


@by_rule
def test_ties_go_to_the_even_neighbour(rule: Rule) -> None:
    """Halves of the last place, everywhere in the range of BF16, are half-way or exact."""
    last = [2.0**-7, 2.0**-130, 2.0**120, 1.0]
    for scale in last:
        values = [scale * (128 + k) for k in range(16)]
        check(window_of(rule, F32, values, [x + scale / 2 for x in values], out_element=BF16))
        check(window_of(rule, F32, values, [-x + scale / 4 for x in values], weights=(1, 3), out_element=BF16))


@by_implementation
def test_what_vanishes_is_counted_and_leaves_no_sign(implementation: str) -> None:
    for element, tiny in ((F64, 5e-324), (F32, 2.0**-149), (F16, 2.0**-24), (BF16, 2.0**-133), (F8, 2.0**-9)):
        data, counts = combine(implementation, window_of(Rule.MEAN, element, [tiny, -tiny], [0, 0], [0, 0]))
        assert data == bytes(2 * element.size_bytes)
        assert counts == Counts(2, 0, 2, -1, (-1,) * 3, -1)


@by_element
@by_implementation
def test_zeros_have_no_sign(implementation: str, element: Element) -> None:
    minus_zero = reference.sign_bit(element).to_bytes(element.size_bytes, "little")
    for rule in Rule:
        window = Window(
            rule=rule,
            element=element,
            out_element=element,
            inputs=(minus_zero * 3, minus_zero * 3),
            weights=(1, 1),
            base=minus_zero * 3,
            mask=b"\0\1\0",
        )
        data, counts = combine(implementation, window)
        assert data == bytes(3 * element.size_bytes)
        assert (counts.held, counts.nonzero, counts.vanished) == (1, 0, 0)


# ---- laws ------------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(window=windows(max_inputs=7), data=st.data())
def test_the_order_of_inputs_does_not_matter(window: Window, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(window.inputs))))
    shuffled = replace(
        window,
        inputs=tuple(window.inputs[i] for i in order),
        weights=tuple(window.weights[i] for i in order),
    )
    for name in ALL:
        result, counts = combine(name, window)
        again, counts_again = combine(name, shuffled)
        assert again == result
        assert counts_again == replace(counts, first_bad=tuple(counts.first_bad[i] for i in order))


@settings(max_examples=50)
@given(window=windows())
def test_a_repeated_run_gives_the_same_bytes(window: Window) -> None:
    for name in ALL:
        assert combine(name, window) == combine(name, window)


@by_element
@by_implementation
def test_alone_every_number_stays_itself(implementation: str, element: Element) -> None:
    """All numbers of the small types, a sample of the large ones. Only -0 becomes +0."""
    size = 8 * element.size_bytes
    sample = range(1 << size) if size <= 16 else range(0, 1 << size, (1 << size) // 9973)
    codes = [code for code in sample if reference.number(code, element) is not None]
    zero = reference.sign_bit(element)
    data = b"".join(code.to_bytes(element.size_bytes, "little") for code in codes)
    expected = b"".join((0 if code == zero else code).to_bytes(element.size_bytes, "little") for code in codes)
    for rule in Rule:
        window = Window(rule=rule, element=element, out_element=element, inputs=(data,), weights=(3,), divisor=3)
        assert combine(implementation, window)[0] == expected


@by_element
@settings(max_examples=20)
@given(data=st.data())
def test_what_one_input_holds_is_its_value(element: Element, data: st.DataObject) -> None:
    drawn = data.draw(windows(element=element, max_inputs=5, finite=True))
    size = element.size_bytes
    zero = bytes(size)
    columns = list(zip(*(elements(x, element) for x in drawn.inputs), strict=True))
    holders = [data.draw(st.integers(0, len(drawn.inputs) - 1)) for _ in columns]
    inputs = tuple(
        b"".join(column[i] if holder == i else zero for column, holder in zip(columns, holders, strict=True))
        for i in range(len(drawn.inputs))
    )
    values = [column[holder] for column, holder in zip(columns, holders, strict=True)]
    expected = b"".join(zero if reference.number(int.from_bytes(x, "little"), element) == 0 else x for x in values)
    for rule in HOLDING:
        window = replace(drawn, rule=rule, inputs=inputs, out_element=element, base=None, mask=None)
        for name in ALL:
            result, counts = combine(name, window)
            assert result == expected
            assert counts.held == counts.nonzero == sum(x != zero for x in elements(expected, element))


@given(window=windows(finite=True))
def test_what_nobody_holds_is_the_base(window: Window) -> None:
    base = window.inputs[0]
    same = replace(window, inputs=(base,) * len(window.inputs), base=base, mask=None, out_element=window.element)
    for rule in Rule:
        for name in ALL:
            result, counts = combine(name, replace(same, rule=rule))
            assert reference.numbers(result, same.element) == reference.numbers(base, same.element)
            assert counts.held == 0


def test_the_magnitude_is_that_of_the_difference_and_of_two_the_larger_value() -> None:
    expected = check(window_of(Rule.MAX_MAGNITUDE, F32, [1, 5, -1, 0], [4, -1, 3, 0], base=[3, 2, 1, 0]))
    assert b"".join(x or b"" for x in expected.elements) == to_bytes([1, 5, 3, 0], F32)


# ---- misuse ----------------------------------------------------------------------------------------------------------

GOOD = window_of(Rule.SUM, F32, [1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
UNKNOWN = Element("F128", 4, "float", "", 9)

MISUSES = [
    (replace(GOOD, rule=6), "unknown rule"),
    (replace(GOOD, rule=-1), "unknown rule"),
    (replace(GOOD, element=UNKNOWN), "unknown element type"),
    (replace(GOOD, out_element=replace(UNKNOWN, code=-1)), "unknown element type"),
    (replace(GOOD, inputs=GOOD.inputs * 129, weights=(1,) * 258), "expected 1 to 256 inputs"),
    (replace(GOOD, weights=(1,)), "expected one weight per input"),
    (replace(GOOD, inputs=(GOOD.inputs[0], GOOD.inputs[1][:-4])), "expected inputs of the size of out"),
    (replace(GOOD, element=F64), "expected inputs of the size of out"),
    (replace(GOOD, weights=(1, 0)), r"expected weights of 1 to 2\*\*28"),
    (replace(GOOD, weights=(1, -5)), r"expected weights of 1 to 2\*\*28"),
    (replace(GOOD, weights=(1, 1 + MAX_WEIGHT)), r"expected weights of 1 to 2\*\*28"),
    (replace(GOOD, weights=(1, MAX_WEIGHT - 1)), r"at most 2\*\*28 together"),
    (replace(GOOD, divisor=0), r"at most 2\*\*28 together"),
    (replace(GOOD, divisor=MAX_WEIGHT - 1), r"at most 2\*\*28 together"),
    (replace(GOOD, divisor=(1 << 63) - 1), r"at most 2\*\*28 together"),
    (replace(GOOD, base=GOOD.inputs[0] + b"\0"), "expected a base of the size of out"),
    (replace(GOOD, mask=b"\1\1"), "expected one mask byte per coordinate"),
]


@by_implementation
@pytest.mark.parametrize(("window", "message"), MISUSES)
def test_misuse_is_a_value_error(implementation: str, window: Window, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        combine(implementation, window)


@by_implementation
def test_no_inputs_and_half_elements_are_value_errors(implementation: str) -> None:
    with pytest.raises(ValueError, match="out does not hold whole elements"):
        combine(implementation, GOOD, num_out_bytes=11)
    with pytest.raises(ValueError, match="expected 1 to 256 inputs"):
        combine(implementation, replace(GOOD, inputs=(), weights=()), num_out_bytes=12)


def test_integers_are_refused() -> None:
    out = np.zeros(4, np.uint8)
    with pytest.raises(ValueError, match="expected a float element type, not I32"):
        kernels.combine(Rule.SUM, [out], element=ELEMENTS["I32"], out=out, out_element=F32, weights=[1])


# ---- the same on every machine ---------------------------------------------------------------------------------------


def golden_window(rule: Rule, element: Element, out_element: Element) -> Window:
    """Made with integer arithmetic alone, so that it is the same everywhere. Nothing in it overflows."""
    layout = reference.LAYOUTS[element.name]
    size, width = 1003, element.size_bytes

    def data(slot: int) -> bytes:
        made = []
        for at in range(size):
            bits = (at * 5 + slot) * 0x9E3779B97F4A7C15 % (1 << 64) >> 7
            field = layout.bias - bits % 6
            code = field << layout.fraction_bits | bits // 64 % (1 << layout.fraction_bits)
            sign = reference.sign_bit(element) * (bits >> 41 & 1)
            made.append((0 if bits >> 50 & 3 == 0 else code | sign).to_bytes(width, "little"))
        return b"".join(made)

    return Window(
        rule=rule,
        element=element,
        out_element=out_element,
        inputs=tuple(data(slot) for slot in range(5)),
        weights=(1, 2, 70_001, 123_457, 3),
        divisor=200_000,
        base=data(5) if rule % 2 else None,
        mask=bytes(at % 5 == 0 for at in range(size)) if rule % 3 == 0 else None,
    )


@by_implementation
def test_golden_bytes(implementation: str) -> None:
    hasher = blake3()
    for rule in Rule:
        for element in FLOATS:
            for out_element in (element, BF16):
                data, counts = combine(implementation, golden_window(rule, element, out_element))
                assert counts.first_overflow == -1
                hasher.update(data)
                hasher.update(struct.pack("<3q", counts.held, counts.nonzero, counts.vanished))
    assert hasher.hexdigest() == "fb5d7e0c7a2c9769722f0d13f7751540a8a0b45785900037741b2efee7721197"


@pytest.mark.parametrize("implementation", COMPILED)
def test_a_thread_that_flushes_subnormals_gets_them_nevertheless(implementation: str) -> None:
    """Whoever has called `torch.set_flush_denormal` in this process must not get other bytes than the rest."""
    window = Window(
        rule=Rule.MEAN,
        element=F16,
        out_element=F16,
        inputs=(b"\x03\x00\x01\x80", b"\x05\x00\x01\x80"),
        weights=(1, 1),
    )
    expected = combine(implementation, window)
    assert expected[0] == b"\x04\x00\x01\x80"
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor flushes nothing")
    try:
        assert combine(implementation, window) == expected
    finally:
        torch.set_flush_denormal(False)


def test_the_twin_uses_the_numbers_of_the_rules_and_element_types() -> None:
    assert [getattr(twin, rule.name) for rule in Rule] == list(Rule)
    for element in FLOATS:
        assert element.code is not None
        format = twin.FORMATS[element.code]
        assert (format.name, format.size_bytes) == (element.name, element.size_bytes)
        assert format.largest == reference.largest(element)
