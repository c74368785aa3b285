"""`add_products`: each implementation against fractions, byte for byte."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikemesh.kernels import ELEMENTS, Element, Factors, ProductCounts, add_products
from tests.kernels import reference
from tests.kernels.implementations import ALL, using
from tests.kernels.strategies import FLOATS

F32, BF16, F64 = (ELEMENTS[name] for name in ("F32", "BF16", "F64"))
by_element = pytest.mark.parametrize("element", FLOATS, ids=lambda element: element.name)
PALETTES = ("normal", "few bits", "far apart", "zeros")


def numbers(rng: np.random.Generator, palette: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Factors that are hard in different ways: sums fall half-way, cancel, or need every bit of a wide integer."""
    if palette == "few bits":  # ties
        return rng.choice([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5], shape)
    if palette == "far apart":
        return rng.standard_normal(shape) * 2.0 ** rng.integers(-60, 60, shape)
    if palette == "zeros":
        return rng.standard_normal(shape) * (rng.random(shape) < 0.2)
    return rng.standard_normal(shape)


def bytes_of(values: np.ndarray[Any, Any], element: Element) -> np.ndarray[Any, np.dtype[np.uint8]]:
    limit = reference.largest(element) / 4
    kept = [
        reference.nearest(Fraction(x), element) if abs(Fraction(x)) < limit else Fraction(0) for x in values.tolist()
    ]
    return np.frombuffer(b"".join(reference.encoded(x, element) for x in kept), np.uint8)


def expected(base: bytes, f: Factors, of: Element, start: int, to: Element) -> list[bytes | None]:
    """The promise, said in fractions. None is what is beyond the range."""
    found: list[bytes | None] = []
    columns, width = f.right_KN.shape[1], of.size_bytes
    for number, x in enumerate(reference.numbers(base, of)):
        assert x is not None
        row, column = divmod(start + number, columns)
        terms = zip(
            f.weights_K.tolist(),
            f.scales_K.tolist(),
            f.left_MK[row].tolist(),
            f.right_KN[:, column].tolist(),
            strict=True,
        )
        added = sum((w * Fraction(s) * Fraction(a) * Fraction(b) for w, s, a, b in terms), Fraction()) / f.divisor
        rounded = reference.nearest(x + added, to)
        if abs(rounded) > reference.largest(to):
            found.append(None)
        elif added == 0 and of == to:
            found.append(base[number * width : (number + 1) * width])
        else:
            found.append(reference.encoded(rounded, to))
    return found


def run(
    name: str, base: Any, f: Factors, of: Element, start: int, to: Element, *, predict: bool = False
) -> tuple[bytes, bytes, ProductCounts]:
    out = np.zeros(len(base) // of.size_bytes * to.size_bytes, np.uint8)
    predicted = np.zeros(len(base), np.uint8) if predict else None
    with using(name):
        counts = add_products(base, f, element=of, start=start, out=out, out_element=to, predicted=predicted)
    return out.tobytes(), b"" if predicted is None else predicted.tobytes(), counts


@st.composite
def cases(draw: st.DrawFn, of: Element) -> tuple[Any, Factors, int, Element]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, terms, columns = draw(st.integers(1, 5)), draw(st.integers(0, 70)), draw(st.integers(1, 29))
    real = draw(st.sampled_from([np.float32, np.float64]))
    left = numbers(rng, draw(st.sampled_from(PALETTES)), (rows, terms)).astype(real)
    right = numbers(rng, draw(st.sampled_from(PALETTES)), (terms, columns)).astype(real)
    start = draw(st.integers(0, rows * columns - 1))
    size = draw(st.integers(1, rows * columns - start))
    base = bytes_of(numbers(rng, draw(st.sampled_from(PALETTES)), (size,)), of)
    factors = Factors(
        left_MK=left,
        right_KN=right,
        weights_K=rng.integers(-9, 10, terms),
        scales_K=rng.choice([0.5, 1.0, 2.0, 16 / 12, 8 / 3**0.5], terms),
        divisor=draw(st.sampled_from([1, 1, 2, 3, 10, 1 << 28])),
        reach_K=np.abs(right).max(axis=1, initial=0).astype(np.float64),
    )
    return base, factors, start, draw(st.sampled_from([of, F32, BF16]))


@by_element
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_the_sum_of_products_is_exact_and_rounded_once(element: Element, data: st.DataObject) -> None:
    base, factors, start, to = data.draw(cases(element))
    wanted = expected(base.tobytes(), factors, element, start, to)
    for name in ALL:
        out, _, counts = run(name, base, factors, element, start, to)
        got = [out[at : at + to.size_bytes] for at in range(0, len(out), to.size_bytes)]
        assert [g if w is not None else None for g, w in zip(got, wanted, strict=True)] == wanted, name
        assert counts.first_overflow == next((at for at, w in enumerate(wanted) if w is None), -1), name
        assert counts.first_bad == -1


@by_element
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_what_is_predicted_is_what_taking_away_gives(element: Element, data: st.DataObject) -> None:
    base, factors, start, to = data.draw(cases(element))
    if None in expected(base.tobytes(), factors, element, start, to):
        return
    negated = Factors(**{**vars(factors), "weights_K": -factors.weights_K})
    predictions = set()
    for name in ALL:
        out, predicted, _ = run(name, base, factors, element, start, to, predict=True)
        again, _, _ = run(name, np.frombuffer(out, np.uint8), negated, to, start, element)
        assert predicted == again, name
        predictions.add(predicted)
    assert len(predictions) == 1


@pytest.mark.parametrize("name", ALL)
def test_what_products_do_not_change_keeps_its_bits(name: str) -> None:
    base = np.array([-0.0, 1.5, -0.0, 2.0], np.float32).view(np.uint8)
    factors = Factors(
        left_MK=np.array([[1.0, 1.0], [0.0, 0.0]], np.float32),
        right_KN=np.array([[3.0, 1.0], [-3.0, 1.0]], np.float32),
        weights_K=np.ones(2, np.int64),
        scales_K=np.ones(2),
        divisor=1,
        reach_K=np.array([3.0, 1.0]),
    )
    out, _, _ = run(name, base, factors, F32, 0, F32)
    assert out == np.array([-0.0, 3.5, -0.0, 2.0], np.float32).tobytes()


@pytest.mark.parametrize("name", ALL)
def test_what_is_not_finite_or_too_large_is_found(name: str) -> None:
    factors = Factors(
        left_MK=np.full((1, 1), 2.0**100, np.float32),
        right_KN=np.array([[0.0, 0.0, 2.0**28]], np.float32),
        weights_K=np.ones(1, np.int64),
        scales_K=np.ones(1),
        divisor=1,
        reach_K=np.full(1, 2.0**28),
    )
    base = np.array([0.0, np.nan, 1.0], np.float32).view(np.uint8)
    _, _, counts = run(name, base, factors, F32, 0, F32)
    assert (counts.first_bad, counts.first_overflow) == (1, counts.first_overflow)
    _, _, counts = run(name, np.zeros(12, np.uint8), factors, F32, 0, F32)
    assert (counts.first_bad, counts.first_overflow) == (-1, 2)


@pytest.mark.parametrize("name", ALL)
def test_sizes_that_do_not_fit_are_refused(name: str) -> None:
    factors = Factors(
        left_MK=np.ones((2, 1), np.float32),
        right_KN=np.ones((1, 3), np.float32),
        weights_K=np.ones(1, np.int64),
        scales_K=np.ones(1),
        divisor=1,
        reach_K=np.ones(1),
    )
    with pytest.raises(ValueError, match="on the left"):
        run(name, np.zeros(28, np.uint8), factors, F32, 0, F32)
    with pytest.raises(ValueError, match="divisor"):
        run(name, np.zeros(24, np.uint8), Factors(**{**vars(factors), "divisor": 0}), F32, 0, F32)


@pytest.mark.parametrize("element", FLOATS, ids=lambda element: element.name)
def test_a_bound_beyond_the_range_on_both_sides_decides_nothing(element: Element) -> None:
    factors = Factors(
        left_MK=np.ones((1, 1), np.float32),
        right_KN=np.array([[0.0, 1.0, 2.0**120]], np.float32),
        weights_K=np.ones(1, np.int64),
        scales_K=np.array([2.0**900]),
        divisor=1,
        reach_K=np.full(1, 2.0**120),
    )
    base = bytes_of(np.array([1.0]), element)
    for name in ALL:
        out, _, counts = run(name, base, factors, element, 0, element)
        assert (out, counts.first_overflow) == (base.tobytes(), -1)
