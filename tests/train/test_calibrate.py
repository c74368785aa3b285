"""A calibrated model fires at its target rates, nothing but thresholds changed, and what cannot be reached is said."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spikemesh.snn import LIF, Layout, ModelConfig, SpikingLM, model_from_tensors, spike_rates
from spikemesh.train import Bytes, calibrate, calibration_tokens, mean_rates

POPULATIONS = ["blocks.0.stream", "blocks.0.hidden", "output"]
TOLERANCE = 5e-3


@pytest.fixture(scope="module")
def model(config: ModelConfig, start: Mapping[str, npt.NDArray[Any]]) -> SpikingLM:
    torch.set_num_threads(1)
    return model_from_tensors(config, start)


@pytest.fixture(scope="module")
def tokens(text: Bytes) -> Tensor:
    return calibration_tokens(text, num_windows=32, num_tokens=64)


def populations(model: SpikingLM) -> dict[str, LIF]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LIF)}


def bits(model: SpikingLM) -> dict[str, bytes]:
    return {name: values.numpy().tobytes() for name, values in model.state_dict().items()}


def scaled(threshold: Tensor, factor: float) -> Tensor:
    return torch.tensor([t * factor if t > 0 else t / factor for t in threshold.tolist()])


def with_factors(model: SpikingLM, *factors: float) -> SpikingLM:
    """A copy, the thresholds of each population times its factor."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for neurons, factor in zip(populations(changed).values(), factors, strict=True):
            neurons.threshold.copy_(scaled(neurons.threshold, factor))
    return changed


def moved(model: SpikingLM, seed: int) -> SpikingLM:
    changed, layout = copy.deepcopy(model), Layout.of(model)
    theta = layout.gather(model)
    layout.scatter_(changed, theta + 0.2 * np.random.default_rng(seed).standard_normal(len(theta)).astype(np.float32))
    return changed


share = st.floats(0.75, 1.3)


@settings(max_examples=12)
@given(shares=st.tuples(share, share, share))
def test_every_population_reaches_its_target(model: SpikingLM, tokens: Tensor, shares: tuple[float, ...]) -> None:
    before, changed = spike_rates(model, tokens), copy.deepcopy(model)
    target = {name: factor * before[name] for name, factor in zip(POPULATIONS, shares, strict=True)}
    report = calibrate(changed, target, tokens)
    seen = spike_rates(changed, tokens)
    assert [refit.name for refit in report.refits] == list(seen) == POPULATIONS, "in the order in which currents flow"
    assert report.unreached == ()
    for refit in report.refits:
        assert abs(seen[refit.name] - target[refit.name]) <= 1.01 * TOLERANCE * target[refit.name]
        assert refit.after == pytest.approx(seen[refit.name], rel=1e-5)
        assert (refit.target, refit.before) == (target[refit.name], before[refit.name])
        assert refit.factor > 0
    assert report.shift_after <= TOLERANCE and report.tolerance == TOLERANCE
    assert not any(module._forward_pre_hooks for module in changed.modules()), "it takes its hooks away"


def test_parents_mean_is_reached_after_a_merge(model: SpikingLM, tokens: Tensor) -> None:
    parents = [moved(model, 1), moved(model, 2)]
    merged, layout = copy.deepcopy(model), Layout.of(model)
    layout.scatter_(merged, sum(layout.gather(parent) for parent in parents) / np.float32(2))
    target = mean_rates([spike_rates(parent, tokens) for parent in parents])
    report = calibrate(merged, target, tokens)
    assert report.shift_before > 0.02 and report.shift_after <= TOLERANCE
    for name, seen in spike_rates(merged, tokens).items():
        assert seen == pytest.approx(target[name], rel=1.01 * TOLERANCE)


def test_only_thresholds_change_by_one_factor_per_population(model: SpikingLM, tokens: Tensor) -> None:
    changed = copy.deepcopy(model)
    report = calibrate(changed, {"blocks.0.stream": 0.15, "blocks.0.hidden": 0.25, "output": 0.12}, tokens)
    before, after = bits(model), bits(changed)
    assert {name for name in before if before[name] != after[name]} == {f"{name}.threshold" for name in POPULATIONS}
    for refit in report.refits:
        before_, after_ = (populations(m)[refit.name].threshold for m in (model, changed))
        assert torch.allclose(after_, scaled(before_, refit.factor), rtol=1e-6, atol=0)
        assert bool(((after_ > before_) == (refit.factor > 1)).all()), "all up or all down"


def test_known_factors_are_undone_so_each_population_sees_refitted_ones_before_it(
    model: SpikingLM, tokens: Tensor
) -> None:
    """With the first population set right, the second needs exactly the inverse of its own factor, and so on."""
    factors = (0.7, 1.6, 0.8)
    report = calibrate(with_factors(model, *factors), spike_rates(model, tokens), tokens, tolerance=1e-4)
    for refit, factor in zip(report.refits, factors, strict=True):
        assert refit.factor * factor == pytest.approx(1, abs=2e-3), refit


def test_a_model_at_its_target_is_not_touched(model: SpikingLM, tokens: Tensor) -> None:
    target = {"blocks.0.stream": 0.15, "blocks.0.hidden": 0.25, "output": 0.12}
    changed = copy.deepcopy(model)
    calibrate(changed, target, tokens)
    once = bits(changed)
    again = calibrate(changed, target, tokens)
    assert bits(changed) == once and [refit.factor for refit in again.refits] == [1.0, 1.0, 1.0]


def test_the_same_model_and_data_give_the_same_bits(model: SpikingLM, tokens: Tensor) -> None:
    target = {"blocks.0.stream": 0.15, "blocks.0.hidden": 0.25, "output": 0.1}
    first, second = copy.deepcopy(model), copy.deepcopy(model)
    assert calibrate(first, target, tokens) == calibrate(second, target, tokens)
    assert bits(first) == bits(second) != bits(model)


def test_what_cannot_be_reached_is_left_alone_and_said(model: SpikingLM, tokens: Tensor) -> None:
    silent = copy.deepcopy(model)
    block = next(silent.each_block())
    with torch.no_grad():
        block.w_in.weight.zero_()
        block.hidden.threshold.abs_()
    before, rate = block.hidden.threshold.clone(), spike_rates(silent, tokens)["output"]
    report = calibrate(silent, {"blocks.0.stream": 0.1, "blocks.0.hidden": 0.2, "output": rate}, tokens)
    assert report.unreached == ("blocks.0.hidden",)
    assert torch.equal(block.hidden.threshold, before)
    refit = report.refits[1]
    assert (refit.before, refit.after, refit.factor) == (0.0, 0.0, 1.0)
    everything = calibrate(copy.deepcopy(model), dict.fromkeys(POPULATIONS, 1.0), tokens)
    assert everything.unreached == tuple(POPULATIONS)
    assert [refit.factor for refit in everything.refits] == [1.0, 1.0, 1.0]


def test_a_rate_that_jumps_over_the_target_ends_on_the_nearer_side(config: ModelConfig) -> None:
    """One token: the rates of 48 neurons are multiples of 1/48, and the target lies between two of them."""
    model = SpikingLM(config)
    with torch.no_grad():
        model.embedding.copy_(torch.linspace(0.5, 1.5, config.width))
        model.delay_mix[0] = 1
    quiet = dict.fromkeys(POPULATIONS, 0.0) | {"blocks.0.stream": 10.3 / 48}
    report = calibrate(model, quiet, torch.tensor([[5]]))
    assert report.unreached == ("blocks.0.stream",)
    assert report.refits[0].after == pytest.approx(10 / 48)


def test_negative_thresholds_keep_their_sign(model: SpikingLM, tokens: Tensor) -> None:
    """A neuron whose threshold is negative fires unless it is inhibited; it, too, is refitted."""
    negative = copy.deepcopy(model)
    with torch.no_grad():
        negative.output.threshold.abs_().mul_(-1)
    target = spike_rates(with_factors(negative, 1, 1, 0.4), tokens)
    assert target["output"] > 1.05 * spike_rates(negative, tokens)["output"]
    report = calibrate(negative, target, tokens)
    assert report.unreached == () and report.refits[2].factor == pytest.approx(0.4, rel=0.05)
    assert bool((negative.output.threshold < 0).all())


def test_misuse_is_refused_before_anything_changes(model: SpikingLM, tokens: Tensor) -> None:
    good = dict.fromkeys(POPULATIONS, 0.2)
    changed = copy.deepcopy(model)
    for target, windows, tolerance in (
        ({}, tokens, TOLERANCE),
        (good | {"blocks.1.stream": 0.2}, tokens, TOLERANCE),
        (good | {"output": float("nan")}, tokens, TOLERANCE),
        (good | {"output": 1.5}, tokens, TOLERANCE),
        (good, tokens[0], TOLERANCE),
        (good, tokens[:0], TOLERANCE),
        (good, tokens, 0.0),
        (good, tokens, float("nan")),
    ):
        with pytest.raises(ValueError, match="expected"):
            calibrate(changed, target, windows, tolerance=tolerance)
    with pytest.raises(IndexError):
        calibrate(changed, good, tokens + 256)
    assert bits(changed) == bits(model)


def test_mean_rates_are_weighted() -> None:
    first, second = {"a": 0.1, "b": 0.4}, {"a": 0.3, "b": 0.0}
    assert mean_rates([first, second]) == pytest.approx({"a": 0.2, "b": 0.2})
    assert mean_rates([first, second], [3, 1]) == pytest.approx({"a": 0.15, "b": 0.3})
    assert mean_rates([first, second], [0, 2]) == pytest.approx(second)
    for rates, weights in (
        ([], None),
        ([first], [1, 1]),
        ([first, second], [0, 0]),
        ([first, second], [2, -1]),
        ([first, second], [1, float("nan")]),
        ([first, {"a": 0.3}], None),
    ):
        with pytest.raises(ValueError, match="expected"):
            mean_rates(rates, weights)


def test_calibration_windows_cover_the_text(text: Bytes) -> None:
    windows = calibration_tokens(text, num_windows=8, num_tokens=100)
    assert windows.shape == (8, 100) and windows.dtype == torch.int64
    assert bytes(windows[0].tolist()) == text[:100].tobytes()
    assert bytes(windows[-1].tolist()) == text[-101:-1].tobytes()
    assert calibration_tokens(text[:40]).shape == (1, 39)
