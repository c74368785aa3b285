"""The event-driven engine is the model: the same spikes and logits, without torch; rounding costs what is said."""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hang import HANG_S

from spikemesh.errors import InvalidData
from spikemesh.snn import (
    EventEngine,
    MaskedLinear,
    ModelConfig,
    SpikingLM,
    dense_tensors,
    engine_loss,
    generate,
    initialise,
    spike_rates,
)
from spikemesh.snn.config import check_tensors, tensor_shapes
from spikemesh.snn.inference import WeightFormat
from spikemesh.snn.text import choose
from spikemesh.train import Recipe, loss_on, make_optimiser, train_step

TEXT = np.frombuffer(Path(argparse.__file__).read_bytes(), np.uint8)

FORMATS: tuple[WeightFormat, ...] = ("float", "int8", "int4")

configs = st.builds(
    ModelConfig,
    width=st.integers(1, 24),
    hidden=st.integers(1, 40),
    num_blocks=st.integers(1, 3),
    num_input_delays=st.integers(1, 5),
    num_axon_delays=st.integers(1, 5),
    density=st.sampled_from([0.1, 0.5, 1.0]),
    mask_seed=st.integers(0, 1000),
)


def exact_model(config: ModelConfig) -> SpikingLM:
    """Every sum is exact in float32, in whatever order: small multiples of powers of two, leaks of 1/2."""
    rng = np.random.default_rng(config.mask_seed)
    model = SpikingLM(config)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "leak" in name:
                values.zero_()
                continue
            low, high, unit = (-2, 12, 4) if "threshold" in name else (-8, 9, 8)
            values.copy_(torch.from_numpy(rng.integers(low, high, tuple(values.shape)) / unit))
        for module in model.modules():
            if isinstance(module, MaskedLinear):
                module.weight.mul_(module.mask)
    return model


def stepped(engine: EventEngine, tokens: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float32], dict[str, float]]:
    """Logits [B, L, 256] and spike rates."""
    session = engine.session(len(tokens))
    return np.stack([session.step(token).copy() for token in tokens.T], axis=1), session.rates()


@settings(max_examples=25, deadline=None)
@given(configs, st.sampled_from([1, 2, 9, 33]))
def test_spikes_and_logits_are_the_models_to_the_bit(config: ModelConfig, num_texts: int) -> None:
    model = exact_model(config)
    tokens = np.random.default_rng(1).integers(0, 256, (num_texts, 7))
    with torch.no_grad():
        expected, _ = model(torch.from_numpy(tokens))
    logits, rates = stepped(EventEngine(config, dense_tensors(model)), tokens)
    assert np.array_equal(logits, expected.numpy())
    assert rates == pytest.approx(spike_rates(model, torch.from_numpy(tokens)), rel=1e-5)


@pytest.fixture(scope="module")
def trained() -> SpikingLM:
    """A tiny model after some training: its weights, leaks and thresholds are arbitrary floats."""
    torch.set_num_threads(1)
    config = ModelConfig(width=48, hidden=64, num_blocks=2, density=0.25)
    model = initialise(config, TEXT[: 16 * 65].reshape(16, 65)[:, :-1].astype(np.int64), seed=0)
    recipe = Recipe(num_rounds=40, steps_per_round=1, batch_size=8, num_tokens=48)
    optimiser, rng = make_optimiser(model, recipe), np.random.default_rng(0)
    for step in range(recipe.num_steps):
        starts = rng.integers(0, len(TEXT) - 50, recipe.batch_size)
        windows = TEXT[starts[:, None] + np.arange(recipe.num_tokens + 1)].astype(np.int64)
        train_step(model, optimiser, torch.from_numpy(windows), recipe.rate_at(step / recipe.num_steps), recipe)
    return model


def test_greedy_text_of_a_trained_model(trained: SpikingLM) -> None:
    """After real text, at every byte of it the same one is the likeliest, and so on from there."""
    engine = EventEngine(trained.config, dense_tensors(trained))
    windows = TEXT[20_000 : 20_000 + 40 * 100].reshape(40, 100).astype(np.int64)
    with torch.no_grad():
        expected = trained(torch.from_numpy(windows))[0].numpy()
    logits, _ = stepped(engine, windows)
    assert np.array_equal(logits.argmax(2), expected.argmax(2))
    assert len(set(logits.argmax(2).flat)) > 5
    assert np.median(np.abs(logits - expected)) < 1e-5
    for window in windows[:10]:
        prompt = bytes(window.tolist())
        text = generate(engine, prompt, num_bytes=30, temperature=0.0)
        assert text == generate(trained, prompt, num_bytes=30, temperature=0.0)


def test_the_same_seed_draws_the_same_text(trained: SpikingLM) -> None:
    engine = EventEngine(trained.config, dense_tensors(trained))
    text = generate(engine, b"", num_bytes=200, temperature=0.8, seed=4)
    assert text == generate(trained, b"", num_bytes=200, temperature=0.8, seed=4)
    assert text != generate(engine, b"", num_bytes=200, temperature=0.8, seed=5)


def test_loss_is_that_of_the_model_and_rounding_costs_little(trained: SpikingLM) -> None:
    windows = TEXT[10_000 : 10_000 + 40 * 65].reshape(40, 65).astype(np.int64)
    expected, tensors = loss_on(trained, windows), dense_tensors(trained)
    losses = [engine_loss(EventEngine(trained.config, tensors, weights=kind), windows) for kind in FORMATS]
    assert expected < 3.2, "it has learnt something"
    for loss, allowed in zip(losses, (1e-3, 0.02, 0.2), strict=True):
        assert loss == pytest.approx(expected, abs=allowed)
    assert len(set(losses)) == 3


def test_rounded_weights_are_used(trained: SpikingLM) -> None:
    """The engine of rounded weights is the model with those weights, and takes less memory."""
    tensors = dense_tensors(trained)
    full = EventEngine(trained.config, tensors)
    full.session(32)
    sizes = [full.num_bytes]
    for kind, largest in zip(FORMATS[1:], (127, 7), strict=True):
        rounded = dict(tensors)
        for name in tensors:
            if name.endswith(".weight"):
                scale = np.abs(tensors[name]).max(axis=1, keepdims=True) / largest
                rounded[name] = (np.rint(tensors[name] / scale) * scale).astype(np.float32)
        engine = EventEngine(trained.config, tensors, weights=kind)
        text = generate(EventEngine(trained.config, rounded), b"def ", num_bytes=50, temperature=0.0)
        assert generate(engine, b"def ", num_bytes=50, temperature=0.0) == text
        engine.session(32)
        sizes.append(engine.num_bytes)
    assert sizes == sorted(sizes, reverse=True)


def test_sessions_do_not_meet(trained: SpikingLM) -> None:
    """Threads share an engine; each session remembers its own text alone."""
    engine = EventEngine(trained.config, dense_tensors(trained))
    seeds = range(8)

    def write(seed: int) -> bytes:
        return generate(engine, b"class ", num_bytes=150, temperature=1.0, seed=seed)

    expected = [write(seed) for seed in seeds]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(write, seeds)) == expected


def test_what_an_engine_says_of_itself(trained: SpikingLM) -> None:
    engine = EventEngine(trained.config, dense_tensors(trained))
    layers = [module for module in trained.modules() if isinstance(module, MaskedLinear)]
    assert engine.num_synapses == sum(int((layer.weight != 0).sum()) for layer in layers)
    fan_outs = engine.fan_outs()
    sizes = {"stream": 48, "hidden": 64, "output": 48}
    total = sum(fan_outs[name] * sizes[name.rpartition(".")[2]] for name in fan_outs)
    assert total == pytest.approx(engine.num_synapses)
    with pytest.raises(ValueError):
        EventEngine(trained.config, dense_tensors(trained)).session(0)


@settings(max_examples=20, deadline=None)
@given(configs)
def test_tensors_of_a_model_file(config: ModelConfig) -> None:
    tensors = dense_tensors(SpikingLM(config))
    assert tensor_shapes(config) == {name: array.shape for name, array in tensors.items()}
    check_tensors(config, tensors)


def test_what_is_no_model_is_refused(trained: SpikingLM) -> None:
    tensors = dense_tensors(trained)
    bad = tensors["output.threshold"].copy()
    bad[3] = np.nan
    broken = [
        {name: array for name, array in tensors.items() if name != "embedding"},
        tensors | {"extra": bad},
        tensors | {"output.threshold": bad},
        tensors | {"output.threshold": bad[:-1]},
        tensors | {"head.weight": tensors["head.weight"].astype(np.float64)},
    ]
    for case in broken:
        with pytest.raises(InvalidData):
            EventEngine(trained.config, case)


def test_tokens_are_checked(trained: SpikingLM) -> None:
    engine = EventEngine(trained.config, dense_tensors(trained))
    for bad in ([256], [-1], [1, 2], 3, []):
        with pytest.raises(ValueError):
            engine.session().step(bad)
    with pytest.raises(ValueError):
        engine.session().read(b"")


@given(st.integers(0, 1 << 32), st.floats(0.05, 5.0))
def test_choices_follow_the_softmax(seed: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal(256).astype(np.float32) * 10
    assert choose(logits, 0.0, rng) == logits.argmax()
    assert 0 <= choose(logits, temperature, rng) < 256


def test_choices_are_as_frequent_as_they_should_be() -> None:
    rng, logits = np.random.default_rng(0), np.full(256, -np.inf, np.float32)
    logits[[3, 200]] = np.log([1.0, 3.0])
    drawn = [choose(logits, 1.0, rng) for _ in range(4000)]
    assert set(drawn) == {3, 200} and drawn.count(200) / 4000 == pytest.approx(0.75, abs=0.03)


def test_no_torch_is_loaded() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from spikemesh.snn import EventEngine, ModelConfig, generate\n"
        "from spikemesh.snn.config import tensor_shapes\n"
        "config = ModelConfig(width=4, hidden=4)\n"
        "tensors = {name: np.ones(shape, np.float32) for name, shape in tensor_shapes(config).items()}\n"
        "assert len(generate(EventEngine(config, tensors), b'a', num_bytes=3)) == 3\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=False)
    assert result.returncode == 0, result.stderr
