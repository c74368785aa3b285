"""Draws are a function of seed, tensor, row and number: the same bits everywhere, and as likely as said."""

from __future__ import annotations

import hashlib
from itertools import combinations
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikemesh.kernels import draw_columns, draw_normals
from spikemesh.kernels.spiking.draw import MAX_SEED, tensor_number
from spikemesh.kernels.spiking.draw_twin import logarithm, normal, philox
from spikemesh.snn.config import ModelConfig, tensor_shapes
from tests.kernels.implementations import ALL, using

SEEDS = st.one_of(st.integers(0, 3), st.integers(0, MAX_SEED))


@pytest.mark.parametrize(
    ("key", "counter", "block"),
    [
        (0, [0, 0, 0, 0], "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (MAX_SEED, [0xFFFFFFFF] * 4, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            0x299F31D0A4093822,
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_the_generator_is_philox(key: int, counter: list[int], block: str) -> None:
    """The known answers that its authors published with it (Random123, kat_vectors)."""
    first, second, third, fourth = (np.array([word], np.uint64) for word in counter)
    words = philox(key, (first, second, third, fourth))
    assert " ".join(f"{word:08x}" for word in words[0].tolist()) == block


@given(SEEDS, st.sampled_from(["a", "head.weight"]), st.integers(0, 9), st.integers(0, 5), st.data())
def test_every_implementation_draws_the_same(
    seed: int, tensor: str, first: int, count: int, data: st.DataObject
) -> None:
    num_columns = data.draw(st.one_of(st.integers(1, 70), st.integers(1, 3000)))
    fan_in = data.draw(st.integers(0, num_columns))
    rows, found = range(first, first + count), set()
    for name in ALL:
        with using(name):
            columns = draw_columns(seed, tensor, rows, num_columns=num_columns, fan_in=fan_in, num_threads=2)
            normals = draw_normals(seed, tensor, rows, count=fan_in, std=0.3, num_threads=2)
        assert columns.shape == normals.shape == (count, fan_in)
        assert (np.diff(columns) > 0).all() and ((columns >= 0) & (columns < num_columns)).all()
        found.add(columns.tobytes() + normals.tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("name", ALL)
def test_the_draws_are_the_ones_they_were(name: str) -> None:
    """Runs are told apart by what they started with, so these never change."""
    with using(name):
        columns = draw_columns(7, "blocks.0.w_in.weight", range(50), num_columns=2048, fan_in=143)
        normals = draw_normals(7, "blocks.0.w_in.weight", range(50), count=143, std=0.5)
    assert hashlib.sha256(columns.tobytes()).hexdigest()[:16] == "796c11f77e774219"
    assert hashlib.sha256(normals.tobytes()).hexdigest()[:16] == "dd05cceb16c4d438"


@pytest.mark.parametrize("name", ALL)
def test_rows_can_be_drawn_apart(name: str) -> None:
    with using(name):
        together = draw_columns(1, "x", range(3, 9), num_columns=100, fan_in=20)
        normals = draw_normals(1, "x", range(3, 9), count=7, std=1.0)
        for at, row in enumerate(range(3, 9)):
            alone = draw_columns(1, "x", range(row, row + 1), num_columns=100, fan_in=20)
            assert np.array_equal(alone[0], together[at])
            assert np.array_equal(draw_normals(1, "x", range(row, row + 1), count=7, std=1.0)[0], normals[at])
    assert len({row.tobytes() for row in together}) == 6


@pytest.mark.parametrize("name", ALL)
def test_seed_and_tensor_choose_other_draws(name: str) -> None:
    with using(name):
        drawn = {
            draw_columns(seed, tensor, range(1), num_columns=1000, fan_in=50).tobytes()
            for seed in (0, 1, 1 << 32, MAX_SEED)
            for tensor in ("x", "y")
        }
    assert len(drawn) == 8


@pytest.mark.parametrize("fan_in", [1, 3, 5])
def test_every_set_of_columns_is_as_likely(fan_in: int) -> None:
    """Chi-squared over all sets of 6 columns; 20,000 rows of one seed, so the number is always the same."""
    columns = draw_columns(5, "x", range(20_000), num_columns=6, fan_in=fan_in)
    sets = [list(chosen) for chosen in combinations(range(6), fan_in)]
    counts = np.array([(columns == chosen).all(1).sum() for chosen in sets])
    expected = len(columns) / len(sets)
    freedom = len(sets) - 1
    assert counts.sum() == len(columns)
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 3 * (2 * freedom) ** 0.5


def test_normal_is_the_inverse_of_the_distribution_function() -> None:
    edges = [0, 1, 2, 1 << 20, 322122546, 322122547, (1 << 31) - 1, 1 << 31, 3972844748, 3972844749, (1 << 32) - 1]
    words = np.array([*edges, *range(0, 1 << 32, 99_999_999)], np.uint64)
    exact = [NormalDist().inv_cdf((word + 0.5) / 2**32) for word in words.tolist()]
    np.testing.assert_allclose(normal(words), exact, rtol=3e-7, atol=3e-7)
    assert np.array_equal(normal(words), -normal(np.uint64(0xFFFFFFFF) - words))
    x = np.array([2.0**-33, 0.01, 0.5, 0.70710678, 0.7072, 0.999999])
    np.testing.assert_allclose(logarithm(x), np.log(x), rtol=1e-9)


def test_normals_have_their_moments() -> None:
    values = draw_normals(2, "x", range(400), count=500, std=0.5).astype(np.float64) / 0.5
    size = values.size
    assert abs(values.mean()) < 3 / size**0.5
    assert abs((values**2).mean() - 1) < 3 * (2 / size) ** 0.5
    assert abs((values**4).mean() - 3) < 3 * (96 / size) ** 0.5


def test_no_two_tensors_of_the_largest_model_share_their_draws() -> None:
    names = list(tensor_shapes(ModelConfig(width=4, hidden=4, num_blocks=64)))
    assert len({tensor_number(name) for name in names}) == len(names)


@pytest.mark.parametrize("name", ALL)
def test_misuse_is_refused(name: str) -> None:
    with using(name):
        for seed in (-1, MAX_SEED + 1):
            with pytest.raises(ValueError, match="expected a seed"):
                draw_normals(seed, "x", range(1), count=1, std=1.0)
        with pytest.raises(ValueError, match="at most as many"):
            draw_columns(0, "x", range(1), num_columns=3, fan_in=4)
        with pytest.raises(ValueError, match="follow each other"):
            draw_normals(0, "x", range(0, 4, 2), count=1, std=1.0)
