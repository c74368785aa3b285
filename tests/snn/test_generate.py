"""Sampling is deterministic, and feeds what it drew; rates and densities are what they say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from spikemesh.snn import SpikingLM, generate, spike_rates, weight_densities


def test_same_seed_same_text(model: SpikingLM) -> None:
    first = generate(model, b"def ", num_bytes=40, temperature=1.0, seed=1)
    assert len(first) == 40
    assert first == generate(model, b"def ", num_bytes=40, temperature=1.0, seed=1)
    assert first != generate(model, b"def ", num_bytes=40, temperature=1.0, seed=2)
    assert len(generate(model, b"", num_bytes=3)) == 3


def test_greedy_text_is_the_argmax_of_the_full_pass(model: SpikingLM) -> None:
    model.double()
    text = generate(model, b"x = ", num_bytes=20, temperature=0.0)
    with torch.no_grad():
        logits, _ = model(torch.tensor([list(b"x = " + text)]))
    assert bytes(logits[0, 3:-1].argmax(1).tolist()) == text


def test_misuse_is_refused(model: SpikingLM) -> None:
    for temperature in (-1.0, float("nan")):
        with pytest.raises(ValueError):
            generate(model, b"a", num_bytes=1, temperature=temperature)


def test_reported_rates_and_densities(model: SpikingLM, tokens: npt.NDArray[np.int64]) -> None:
    rates = spike_rates(model, torch.from_numpy(tokens))
    assert set(rates) == {"blocks.0.stream", "blocks.0.hidden", "blocks.1.stream", "blocks.1.hidden", "output"}
    assert all(0.1 < rate < 0.3 for rate in rates.values())
    assert not any(m._forward_hooks for m in model.modules()), "the meter takes its hooks away"
    densities = weight_densities(model)
    assert set(densities) == {f"blocks.{b}.{w}" for b in (0, 1) for w in ("w_in", "w_out")} | {"head", "total"}
    assert all(abs(density - 0.25) < 0.01 for density in densities.values())
