"""Products with synapses: compiled code on every instruction set, the NumPy twin, and dense products."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikemesh.kernels import Pattern, native
from spikemesh.kernels.spiking.sparse_twin import Pattern as Twin
from tests.kernels.floats import Floats, Guarded
from tests.kernels.implementations import ALL, COMPILED, using


@dataclass(frozen=True)
class Case:
    mask: npt.NDArray[np.bool_]
    values: Floats
    spikes: Floats
    x: Floats
    grad: Floats
    num_threads: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Rows need not have the same number of synapses, or any; more than 192 columns make a second sum."""
    rows, columns = draw(st.integers(0, 12)), draw(st.one_of(st.integers(0, 20), st.integers(180, 420)))
    tokens = draw(st.one_of(st.integers(0, 40), st.sampled_from([64, 127, 128, 255, 256, 257, 300, 1030])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = rng.random((rows, columns)) < draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    return Case(
        mask=mask,
        values=rng.standard_normal(int(mask.sum())).astype(np.float32),
        spikes=(rng.random((columns, tokens)) < 0.3).astype(np.float32),
        x=rng.integers(-3, 4, (columns, tokens)).astype(np.float32),
        grad=rng.integers(-3, 4, (rows, tokens)).astype(np.float32),
        num_threads=draw(st.integers(1, 3)),
    )


def pattern_of(name: str, mask: npt.NDArray[np.bool_]) -> Pattern:
    with using(name):
        return Pattern.of(mask)


def products(name: str, case: Case) -> list[Floats]:
    """Everything that one implementation makes of the case; nothing is written beside the results."""
    pattern, guarded, threads = pattern_of(name, case.mask), Guarded(), case.num_threads
    (rows, columns), tokens = case.mask.shape, case.x.shape[1]
    whole = np.round(case.values * 4)
    sums, other, back = guarded.room((rows, tokens)), guarded.room((rows, tokens)), guarded.room((columns, tokens))
    by_spikes, by_x = guarded.room((pattern.num_synapses,)), guarded.room((pattern.num_synapses,))
    with using(name):
        bits = pattern.empty_bits(tokens)
        assert pattern.pack(case.spikes[:3], bits, num_threads=threads)
        assert pattern.pack(case.spikes[3:], bits, first=min(3, columns), num_threads=threads)
        pattern.multiply_spikes(case.values, bits, sums, num_threads=threads)
        pattern.multiply(whole, case.x, other, num_threads=threads)
        pattern.multiply_transposed(whole, case.grad, back, num_threads=threads)
        pattern.correlate_spikes(case.grad, bits, by_spikes, num_threads=threads)
        pattern.correlate(case.grad, case.x, by_x, num_threads=threads)
    guarded.check()
    return [sums, other, back, by_spikes, by_x]


@pytest.mark.parametrize("name", ALL)
@given(case=cases())
def test_products_are_those_of_the_full_matrix(name: str, case: Case) -> None:
    """Whole numbers where sums may be made in any order: nothing is rounded."""
    matrix, whole = np.zeros(case.mask.shape), np.zeros(case.mask.shape)
    matrix[case.mask], whole[case.mask] = case.values, np.round(case.values * 4)
    grad, x, spikes = (values.astype(np.float64) for values in (case.grad, case.x, case.spikes))
    sums, *exact = products(name, case)
    np.testing.assert_allclose(sums, matrix @ spikes, rtol=0, atol=1e-4)
    expected = [whole @ x, whole.T @ grad, (grad @ spikes.T)[case.mask], (grad @ x.T)[case.mask]]
    for ours, theirs in zip(exact, expected, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("name", COMPILED)
@given(case=cases())
def test_sums_of_spikes_are_the_same_bits_everywhere(name: str, case: Case) -> None:
    assert products(name, case)[0].tobytes() == products("numpy", case)[0].tobytes()


def large() -> Case:
    rng = np.random.default_rng(5)
    mask = rng.random((90, 300)) < 0.3
    x, grad = rng.standard_normal((300, 700)), rng.standard_normal((90, 700))
    values, spikes = rng.standard_normal(int(mask.sum())), rng.random((300, 700)) < 0.3
    return Case(mask, *(part.astype(np.float32) for part in (values, spikes, x, grad)), num_threads=1)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(5, 4000), (4000, 5)])
def test_more_features_than_a_tile(name: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(6)
    mask = rng.random(shape) < 0.1
    values = rng.integers(-3, 4, int(mask.sum())).astype(np.float32)
    x, grad = (rng.integers(-3, 4, (size, 70)).astype(np.float32) for size in reversed(shape))
    matrix, pattern, guarded = np.zeros(shape), pattern_of(name, mask), Guarded()
    matrix[mask] = values
    y, back = guarded.room((shape[0], 70)), guarded.room((shape[1], 70))
    with using(name):
        pattern.multiply(values, x, y)
        pattern.multiply_transposed(values, grad, back)
    guarded.check()
    assert np.array_equal(y, matrix @ x) and np.array_equal(back, matrix.T @ grad)


def test_threads_change_no_bit() -> None:
    case = large()
    one, *others = (
        [part.tobytes() for part in products(ALL[-1], Case(**{**case.__dict__, "num_threads": n}))] for n in (1, 2, 5)
    )
    assert all(other == one for other in others)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, np.nan, np.inf])
def test_what_is_no_spike_is_noticed(name: str, value: float) -> None:
    pattern, x = pattern_of(name, np.ones((2, 3), np.bool_)), np.zeros((3, 300), np.float32)
    with using(name):
        assert pattern.pack(x, pattern.empty_bits(300))
        x[1, 299] = value
        assert not pattern.pack(x, pattern.empty_bits(300))


KINDS: list[Callable[..., object]] = [Twin, *([] if native is None else [native.Pattern])]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("starts", "columns"),
    [
        ([], []),
        ([1, 2], [0, 1]),
        ([0, 1], [0, 1]),
        ([0, 2, 1, 2], [0, 1]),
        ([0, 5, 2], [0, 1]),
        ([0, 2], [0, 3]),
        ([0, 2], [-1, 0]),
        ([0, 2], [1, 0]),
        ([0, 2], [1, 1]),
    ],
)
def test_a_pattern_that_is_none_is_refused(kind: Callable[..., object], starts: list[int], columns: list[int]) -> None:
    kind(np.array([0, 2]), np.array([0, 2], np.int32), 3)
    with pytest.raises(ValueError):
        kind(np.array(starts, np.int64), np.array(columns, np.int32), 3)


@pytest.mark.skipif(native is None, reason="the kernels are not compiled")
def test_arrays_that_do_not_fit_are_refused() -> None:
    pattern, bits = Pattern.of(np.ones((2, 3), np.bool_)), np.zeros(96, np.uint8)
    w, x, y = np.zeros(6, np.float32), np.zeros((3, 5), np.float32), np.zeros((2, 5), np.float32)
    for attempt in (
        lambda: pattern.pack(x, bits[:64]),
        lambda: pattern.pack(x, bits, first=1),
        lambda: pattern.pack(x, bits, first=-1),
        lambda: pattern.multiply_spikes(w[:5], bits, y),
        lambda: pattern.multiply_spikes(w, bits[:64], y),
        lambda: pattern.multiply_spikes(w, bits, x),
        lambda: pattern.multiply(w, y, y),
        lambda: pattern.multiply(w, x, np.zeros((5, 2), np.float32).T),
        lambda: pattern.multiply_transposed(w, x, x),
        lambda: pattern.correlate_spikes(x, bits, w),
        lambda: pattern.correlate(y, x, w[:5]),
        lambda: pattern.multiply(w, x, y, num_threads=0),
    ):
        with pytest.raises(ValueError):
            attempt()


def test_a_pattern_is_its_mask_and_can_be_copied() -> None:
    mask = large().mask
    for pattern in (Pattern.of(mask), copy.deepcopy(Pattern.of(mask))):
        assert np.array_equal(pattern.mask(), mask)
        assert np.array_equal(pattern.rows(), mask.nonzero()[0])
