"""The start fires at the target rate, has no STDP drift, and is the same for the same seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from spikemesh.snn import (
    LIF,
    MaskedLinear,
    ModelConfig,
    SpikingLM,
    StdpWindow,
    init,
    initialise,
    stdp_drift,
    to_tensors,
)

Spikes = dict[str, Tensor]


def spikes_of(model: SpikingLM, tokens: npt.NDArray[np.int64]) -> tuple[Spikes, Spikes]:
    """(what every weight matrix reads, what every population fires) by module name, [L, B, .]."""
    read: Spikes = {}
    fired: Spikes = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, MaskedLinear):
            hooks.append(module.register_forward_hook(lambda _m, x, _y, name=name: read.update({name: x[0]})))
        if isinstance(module, LIF):
            hooks.append(module.register_forward_hook(lambda _m, _x, y, name=name: fired.update({name: y[0]})))
    with torch.no_grad():
        model(torch.from_numpy(tokens))
    for hook in hooks:
        hook.remove()
    return read, fired


def relative_drifts(model: SpikingLM, tokens: npt.NDArray[np.int64]) -> dict[str, Tensor]:
    """By weight matrix: |drift| of each post-synaptic neuron, as a share of its potentiation alone, [N]."""
    read, fired = spikes_of(model, tokens)
    posts = {"blocks.0.w_in": "blocks.0.hidden", "blocks.0.w_out": "blocks.1.stream"}
    posts |= {"blocks.1.w_in": "blocks.1.hidden", "blocks.1.w_out": "output"}
    window = StdpWindow()
    shares = {}
    for layer, population in posts.items():
        mask = model.get_submodule(layer).mask
        drift = (stdp_drift(read[layer], fired[population], window) * mask).sum(1)
        causal = (stdp_drift(read[layer], fired[population], StdpWindow(depression_ratio=0.0)) * mask).sum(1)
        shares[layer] = drift.abs() / causal.clamp_min(1e-9)
    return shares


def test_every_population_fires_at_the_target_rate(model: SpikingLM, tokens: npt.NDArray[np.int64]) -> None:
    _, fired = spikes_of(model, tokens)
    assert set(fired) == {"blocks.0.stream", "blocks.0.hidden", "blocks.1.stream", "blocks.1.hidden", "output"}
    for name, spikes in fired.items():
        assert abs(float(spikes.mean()) - model.config.target_rate) < 0.02, name


def test_expected_stdp_drift_is_zero(
    config: ModelConfig, tokens: npt.NDArray[np.int64], model: SpikingLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(init, "MAX_OFFSET", 0.0)
    uncentred = relative_drifts(initialise(config, tokens, seed=3), tokens)
    centred = relative_drifts(model, tokens)
    for layer, before in uncentred.items():
        assert float(before.mean()) > 0.03, "the test needs a drift to remove"
        assert float(centred[layer].mean()) < 0.2 * float(before.mean()), layer


def test_same_seed_same_bits(config: ModelConfig, tokens: npt.NDArray[np.int64], model: SpikingLM) -> None:
    again, other = (to_tensors(initialise(config, tokens, seed=seed)) for seed in (3, 4))
    start = to_tensors(model)
    assert {k: v.tobytes() for k, v in again.items()} == {k: v.tobytes() for k, v in start.items()}
    assert not np.array_equal(other["theta0"], start["theta0"])


def test_first_predictions_are_close_to_uniform(model: SpikingLM, tokens: npt.NDArray[np.int64]) -> None:
    with torch.no_grad():
        logits, _ = model(torch.from_numpy(tokens))
    assert float(logits.abs().max()) < 3.0
