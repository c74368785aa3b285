"""Remote increments never overwrite local progress; what is published is what was sent; resume is bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from spikemesh.codec import decode_delta
from spikemesh.errors import InvalidData
from spikemesh.snn import MaskedLinear, SparseLinear, dense_tensors, prefers_sparse
from spikemesh.train import Recipe, StepStatistics, Trainee

Make = Callable[..., Trainee]


def live(trainee: Trainee) -> np.ndarray:
    return trainee.layout.gather(trainee.model)


def increment(trainee: Trainee, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(trainee.layout.num_coordinates) * 0.01).astype(np.float32)


def test_absorb_adds_to_live_and_base(make_trainee: Make) -> None:
    trainee = make_trainee()
    trainee.train(2, 0.1)
    progress = live(trainee) - trainee.base
    assert np.count_nonzero(progress) > len(progress) // 2
    theta = trainee.base + increment(trainee, 1)
    trainee.absorb(theta)
    assert np.array_equal(trainee.base, theta)
    np.testing.assert_allclose(live(trainee) - theta, progress, atol=1e-6)


def test_poll_absorbs_between_steps_and_the_step_sees_it(make_trainee: Make) -> None:
    trainee, alone = make_trainee(), make_trainee()
    theta = trainee.base + increment(trainee, 2)
    answers = iter([None, theta, None])
    losses: list[StepStatistics] = []
    trainee.train(3, 0.1, lambda: next(answers), losses.append)
    by_itself: list[StepStatistics] = []
    alone.train(3, 0.1, None, by_itself.append)
    assert losses[0].loss == by_itself[0].loss and losses[1].loss != by_itself[1].loss
    assert [s.step for s in losses] == [1, 2, 3]
    assert all(0 < s.spike_rate < 1 and s.num_tokens == 4 * 32 for s in losses)
    assert np.array_equal(trainee.base, theta)


def test_extract_publishes_the_progress_and_rewinds(make_trainee: Make, recipe: Recipe) -> None:
    trainee = make_trainee()
    losses: list[StepStatistics] = []
    trainee.train(3, 0.1, None, losses.append)
    base, progress = trainee.base.copy(), live(trainee) - trainee.base
    update = trainee.extract(num_authors=4)
    assert np.array_equal(live(trainee), base), "the own contribution comes back through the merge"
    assert (update.num_steps, update.num_tokens, update.weight) == (3, 3 * 4 * 32, 1024)
    assert update.train_loss == pytest.approx(np.mean([s.loss for s in losses]))
    delta = decode_delta(update.delta, num_coordinates=len(base))
    assert len(delta.indices) == update.num_sent == -(-len(base) // 4)
    assert np.abs(progress[delta.indices]).min() >= np.sort(np.abs(progress))[-update.num_sent]
    sent = delta.values(-26)
    error = np.linalg.norm(sent - progress[delta.indices]) / np.linalg.norm(progress[delta.indices])
    assert error < 0.1
    with pytest.raises(ValueError, match="call train first"):
        trainee.extract(num_authors=4)


@pytest.mark.parametrize("sparse", [True, False])
def test_state_continues_bit_for_bit(make_trainee: Make, sparse: bool) -> None:
    first = make_trainee(sparse=sparse)
    first.train(3, 0.0)
    first.extract(2)
    first.absorb(first.base + increment(first, 3))
    first.train(2, 0.25)  # mid-round: live and base differ
    saved = first.state()
    again = make_trainee(sparse=sparse)
    again.load_state({name: values.copy() for name, values in saved.items()})
    for trainee in (first, again):
        trainee.train(2, 0.4)
    updates = first.extract(2), again.extract(2)
    assert updates[0] == updates[1]
    for trainee in (first, again):
        trainee.train(1, 0.6)
    ours, theirs = first.state(), again.state()
    assert {k: v.tobytes() for k, v in ours.items()} == {k: v.tobytes() for k, v in theirs.items()}


@pytest.mark.parametrize("sparse", [True, False])
def test_a_folder_may_change_its_form(make_trainee: Make, sparse: bool) -> None:
    """What a volunteer keeps and publishes does not say whether its weights are masked or synapses only."""
    first, second = make_trainee(sparse=sparse), make_trainee(sparse=not sparse)
    first.train(3, 0.1)
    second.load_state(first.state())
    saved, again = first.state(), second.state()
    assert {name: array.tobytes() for name, array in saved.items()} == {n: a.tobytes() for n, a in again.items()}
    updates = []
    for trainee in (first, second):
        trainee.train(3, 0.2)
        updates.append(trainee.extract(2))
    assert updates[0].num_sent == updates[1].num_sent
    assert updates[0].train_loss == pytest.approx(updates[1].train_loss, abs=1e-3)


def test_the_form_is_what_is_faster_here(make_trainee: Make) -> None:
    kind = SparseLinear if prefers_sparse() else MaskedLinear
    assert isinstance(make_trainee().model.head, kind)


def test_state_is_a_copy(make_trainee: Make) -> None:
    trainee = make_trainee()
    trainee.train(1, 0.0)
    saved = trainee.state()
    bits = {name: values.tobytes() for name, values in saved.items()}
    trainee.train(2, 0.0)
    trainee.extract(1)
    assert {name: values.tobytes() for name, values in saved.items()} == bits


def test_another_runs_state_is_refused(make_trainee: Make) -> None:
    trainee = make_trainee()
    state = trainee.state()
    for attack in (
        {},
        state | {"live": state["live"][:-1]},
        state | {"live": state["live"].astype(np.float64)},
        state | {"more": state["live"]},
        state | {"counters": np.array([-1, 0, 0])},
        state | {"base": np.full_like(state["base"], np.nan)},
    ):
        with pytest.raises(InvalidData):
            trainee.load_state(attack)


@pytest.mark.parametrize("sparse", [True, False])
def test_masked_weights_stay_zero_through_rounds_and_merging(make_trainee: Make, sparse: bool) -> None:
    volunteers = [make_trainee(seed, sparse=sparse) for seed in (1, 2)]
    theta = volunteers[0].base.copy()
    for number in range(3):
        for trainee in volunteers:
            trainee.train(2, number / 4)
            update = trainee.extract(2)
            delta = decode_delta(update.delta, num_coordinates=len(theta))
            theta[delta.indices] += np.float32(update.weight / 4096) * delta.values(-26)
        for trainee in volunteers:
            trainee.absorb(theta)
    for trainee in volunteers:
        full = dense_tensors(trainee.model)
        for name, layer in trainee.model.named_modules():
            if isinstance(layer, MaskedLinear | SparseLinear):
                assert not full[f"{name}.weight"][~layer.mask.numpy()].any()
        assert np.array_equal(live(trainee), theta)


def test_training_lowers_the_loss(make_trainee: Make) -> None:
    trainee = make_trainee()
    losses: list[StepStatistics] = []
    trainee.train(44, 0.1, None, losses.append)
    assert np.mean([s.loss for s in losses[-5:]]) < losses[0].loss - 1.5
