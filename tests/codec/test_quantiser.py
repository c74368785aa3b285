"""Top-k, tables, codes and scales."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.codec import fit_tables

from spikemesh.codec import DENSE, TABLES, TOP_K, Table, dequantise, quantise, select_top_k
from spikemesh.crdt import QUANTUM_BITS
from spikemesh.kernels.delta.codes import BLOCK_VALUES, MAX_SCALE, UNITS, quanta

GRID = -26

Floats = npt.NDArray[np.float32]


def relative_error(values: Floats, table: Table) -> float:
    codes, scales = quantise(values, table, GRID)
    return float(np.linalg.norm(dequantise(codes, scales, table, GRID) - values) / np.linalg.norm(values))


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(0, 200), elements=st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5])),
    st.floats(0.01, 1.0),
)
def test_top_k_is_a_stable_sort_by_magnitude(values: Floats, density: float) -> None:
    num_sent = math.ceil(density * len(values))
    expected = sorted(sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))[:num_sent])
    chosen = select_top_k(values, density)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == expected


def test_top_k_refuses_what_has_no_order() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="finite"):
            select_top_k(np.array([1, bad], np.float32), 0.5)
    for density in (0.0, -1.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="density"):
            select_top_k(np.ones(4, np.float32), density)


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_nearest_is_nearest(table: Table) -> None:
    cells = (np.arange(512) - 255.5) / 2
    for cell, code in zip(cells, table.nearest, strict=True):
        assert abs(table.levels[code] - cell) == min(abs(level - cell) for level in table.levels)


def test_dense_has_zero_and_top_k_has_a_gap() -> None:
    assert 0 in DENSE.levels
    assert min(map(abs, TOP_K.levels)) > 20
    assert [-level for level in reversed(TOP_K.levels)] == list(TOP_K.levels)


@pytest.mark.parametrize(
    ("table", "density", "symmetric"), [(TOP_K, fit_tables.SENT, True), (DENSE, 1.0, False)], ids=["topk", "dense"]
)
def test_tables_are_the_fixed_point_of_their_recipe(table: Table, density: float, symmetric: bool) -> None:
    blocks = fit_tables.training_blocks(density)
    again = fit_tables.fit(blocks, np.array(table.levels, float), symmetric=symmetric, iterations=2)
    assert np.abs(np.array(again) - table.levels).max() <= 1


@pytest.mark.parametrize(
    ("kind", "density", "table", "bound"),
    [
        ("gaussian", 0.25, TOP_K, 0.050),
        ("gaussian", 1 / 64, TOP_K, 0.048),
        ("laplace", 0.25, TOP_K, 0.070),
        ("laplace", 1 / 64, TOP_K, 0.048),
        ("mixture", 0.25, TOP_K, 0.100),
        ("mixture", 1 / 64, TOP_K, 0.055),
        ("gaussian", 1.0, DENSE, 0.090),
        ("laplace", 1.0, DENSE, 0.102),
    ],
)
def test_relative_error(kind: str, density: float, table: Table, bound: float) -> None:
    values = fit_tables.samples(kind, 1 << 17, seed=7) * np.float32(1e-3)
    error = relative_error(values[select_top_k(values, density)], table)
    assert 0.8 * bound < error < bound


def test_each_table_is_the_better_one_for_its_own_values() -> None:
    values = fit_tables.samples("gaussian", 1 << 17, seed=8) * np.float32(1e-3)
    sent = values[select_top_k(values, 0.25)]
    assert relative_error(sent, TOP_K) < 0.7 * relative_error(sent, DENSE)
    assert relative_error(values, DENSE) < 0.7 * relative_error(values, TOP_K)


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_scale_is_nearly_the_best_of_all(table: Table) -> None:
    values = fit_tables.samples("gaussian", BLOCK_VALUES * 100, seed=3) * np.float32(1e-3)
    sent = values if table is DENSE else values[select_top_k(values, 0.25)]
    sent = sent[: len(sent) // BLOCK_VALUES * BLOCK_VALUES].reshape(-1, BLOCK_VALUES)
    codes, scales = quantise(sent.reshape(-1), table, GRID)
    got = ((dequantise(codes, scales, table, GRID).reshape(sent.shape) - sent) ** 2).sum()
    steps = np.float64(sent) * 2.0**-GRID
    levels = np.array(table.levels)
    best = [
        min((np.abs(row[:, None] / unit - levels).min(1) ** 2).sum() * float(unit) ** 2 for unit in UNITS)
        for row in steps
    ]
    assert got <= 1.03 * sum(best) * 4.0**GRID


@settings(max_examples=60, derandomize=True, deadline=None)
@given(hnp.arrays(np.float32, st.integers(0, 200), elements=st.floats(-1.5, 1.5, width=32)))
def test_quantise_is_bounded_and_exact_to_read(values: Floats) -> None:
    for table in TABLES.values():
        codes, scales = quantise(values, table, GRID)
        assert codes.shape == values.shape and scales.shape == (-(-len(values) // BLOCK_VALUES),)
        assert (codes < 16).all() and (scales <= MAX_SCALE).all()
        numbers = quanta(codes, scales, table.level_array)
        assert (np.abs(numbers.astype(np.int64)) < 1 << QUANTUM_BITS).all()
        exact = numbers.astype(np.float64) * 2.0**GRID
        assert (dequantise(codes, scales, table, GRID) == exact).all()
        again_codes, again_scales = quantise(values.copy(), table, GRID)
        assert (codes == again_codes).all() and (scales == again_scales).all()


def test_limits_of_the_grid() -> None:
    largest = math.ldexp(127 * 15 * 2**16, GRID)
    codes, scales = quantise(np.array([largest, -largest], np.float32), TOP_K, GRID)
    assert codes.tolist() == [15, 0] and scales.tolist() == [MAX_SCALE]
    with pytest.raises(ValueError, match="larger grid_exponent"):
        quantise(np.array([largest * 1.01], np.float32), TOP_K, GRID)
    with pytest.raises(ValueError, match="larger grid_exponent"):
        quantise(np.array([3e38], np.float32), DENSE, GRID)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            quantise(np.array([bad], np.float32), DENSE, GRID)


def test_too_small_for_the_grid() -> None:
    tiny = np.full(64, math.ldexp(1.0, GRID), np.float32)
    codes, scales = quantise(tiny, DENSE, GRID)
    assert scales.tolist() == [0] and dequantise(codes, scales, DENSE, GRID).tolist() == [0.0] * 64
    codes, scales = quantise(tiny, TOP_K, GRID)
    assert scales.tolist() == [0] and set(codes.tolist()) == {8}
    assert quantise(np.zeros(64, np.float32), DENSE, GRID)[1].tolist() == [0]


def test_a_table_has_sixteen_ascending_levels() -> None:
    for levels in (range(15), [*range(15), 128], [0, 0, *range(2, 16)], range(15, -1, -1)):
        with pytest.raises(ValueError):
            Table("bad", tuple(levels))
