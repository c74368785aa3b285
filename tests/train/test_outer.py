"""The outer step follows its four equations, and nothing that is not sent is lost faster than the decay says."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikemesh.errors import InvalidData
from spikemesh.train import OuterState, Recipe, contribution_weight, outer_step

GRID = -26


def random_progress(seed: int, size: int = 1000) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(size) * 0.05).astype(np.float32)


def test_sent_and_error_add_up_to_what_was_carried() -> None:
    recipe, state = Recipe(), OuterState.zero(1000)
    for seed in range(5):
        progress = random_progress(seed)
        delta, after = outer_step(state, progress, recipe, GRID)
        np.testing.assert_allclose(after.momentum, np.float32(recipe.momentum) * state.momentum + progress, rtol=1e-6)
        sent = np.zeros(1000, np.float32)
        sent[delta.indices] = delta.values(GRID)
        np.testing.assert_allclose(sent + after.error, 0.95 * state.error + after.momentum, atol=1e-6)
        assert len(delta.indices) == 250 and delta.table.name == "topk"
        state = after


def test_with_all_sent_and_no_momentum_the_sum_follows_the_progress() -> None:
    recipe = replace(Recipe(), sent_density=1.0, momentum=0.0, error_decay=1.0)
    state, total, wanted = OuterState.zero(300), np.zeros(300), np.zeros(300)
    for seed in range(20):
        progress = random_progress(seed, 300)
        delta, state = outer_step(state, progress, recipe, GRID)
        assert delta.table.name == "dense"
        total[delta.indices] += delta.values(GRID)
        wanted += progress
    assert np.abs(total - wanted).max() < 0.02 * np.abs(wanted).max(), "quantisation errors do not accumulate"


def test_operands_are_not_touched() -> None:
    state, progress = OuterState(random_progress(1), random_progress(2)), random_progress(3)
    bits = [a.tobytes() for a in (state.momentum, state.error, progress)]
    outer_step(state, progress, Recipe(), GRID)
    assert bits == [a.tobytes() for a in (state.momentum, state.error, progress)]


def test_progress_beyond_the_grid_is_sent_in_parts() -> None:
    progress = np.full(64, 5.0, np.float32)
    recipe = replace(Recipe(), momentum=0.0, error_decay=1.0, sent_density=1.0)
    state, total = OuterState.zero(64), np.zeros(64)
    for number in range(8):
        delta, state = outer_step(state, progress * (number == 0), recipe, GRID)
        total[delta.indices] += delta.values(GRID)
    np.testing.assert_allclose(total, 5.0, rtol=0.01)


@given(st.integers(1, 1000), st.floats(0, 100), st.floats(0, 2))
def test_weights_are_in_range_and_fall_with_authors_and_staleness(n: int, staleness: float, power: float) -> None:
    recipe = replace(Recipe(), weight_power=power)
    weight = contribution_weight(recipe, n, staleness)
    assert 1 <= contribution_weight(recipe, n + 1, staleness + 1) <= weight <= 4096


def test_known_weights() -> None:
    average, root = replace(Recipe(), weight_power=1.0), replace(Recipe(), weight_power=0.5)
    assert contribution_weight(average, 4, 0) == 1024
    assert contribution_weight(average, 4, 1) == 512
    assert contribution_weight(root, 4, 0) == 2048
    assert contribution_weight(root, 1, 0) == 4096
    for authors, staleness in ((0, 0.0), (1, -1.0), (1, float("nan"))):
        with pytest.raises(ValueError):
            contribution_weight(average, authors, staleness)


def test_recipe_round_trip_and_refusals() -> None:
    recipe = Recipe(learning_rate=0.01, num_rounds=3)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    attacks: list[dict[str, object]] = [
        {"learning_rate": float("inf")},
        {"learning_rate": "fast"},
        {"num_rounds": 0},
        {"num_rounds": 1.5},
        {"batch_size": 1 << 16, "num_tokens": 1 << 16},
        {"batch_size": 1 << 70},
        {"optimizer": "adam"},
    ]
    for values in attacks:
        with pytest.raises(InvalidData):
            Recipe.from_dict(values)


def test_the_rate_rises_then_falls() -> None:
    recipe = Recipe(learning_rate=0.1, warmup=0.1, final_rate_scale=0.02)
    rates = [recipe.rate_at(p / 100) for p in range(101)]
    assert rates[0] == 0 and rates.index(max(rates)) == 10
    assert rates[100] == pytest.approx(0.002) and recipe.rate_at(1.5) == rates[100]
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_a_latecomer_warms_up_on_its_own() -> None:
    recipe = Recipe(learning_rate=0.1, warmup=0.1)
    late = [recipe.rate_at(0.6 + own, own) for own in (0.0, 0.05, 0.1, 0.2)]
    others = [recipe.rate_at(0.6 + own) for own in (0.0, 0.05, 0.1, 0.2)]
    assert late[0] == 0.0
    assert late[1] == pytest.approx(others[1] / 2)
    assert late[2:] == others[2:]
