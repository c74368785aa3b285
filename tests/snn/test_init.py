"""The start fires at the target rate, has no STDP drift, and is the same for the same seed."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.kernels.implementations import ALL
from torch import Tensor

from spikemesh.kernels import draw_columns
from spikemesh.snn import (
    LIF,
    Layout,
    MaskedLinear,
    ModelConfig,
    SpikingLM,
    StdpWindow,
    init,
    initialise,
    layout_tensors,
    start_shapes,
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


START = """
import hashlib, numpy as np
from spikemesh.codec import write_tensors
from spikemesh.snn import ModelConfig, init
config = ModelConfig(width=24, hidden=40, num_blocks=2, density=0.25, mask_seed=5)
text = np.arange(900) ** 2 % 251
kept = init._Kept(config)
init.write_start(config, text.reshape(18, 50), seed=11, sink=kept, num_threads=THREADS)
print(hashlib.sha256(write_tensors(kept.tensors)).hexdigest())
"""
START_DIGEST = "f2d9bc63a0370daad8ce73aa6f7cba25d6a9e2056f83bb7f4fa7f505a41c60b2"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_the_start_is_the_one_it_was_whatever_runs_the_kernels(name: str, num_threads: int) -> None:
    """In a process of its own, as people run it: the choice is made when the package is loaded."""
    code = START.replace("THREADS", str(num_threads))
    environment = os.environ | {"SPIKEMESH_KERNELS": name}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.stdout.strip() == START_DIGEST, result.stderr


def test_the_layout_is_known_before_the_model_is_there(model: SpikingLM) -> None:
    assert layout_tensors(model.config) == Layout.of(model).tensors
    shapes = {name: (np.dtype(dtype), shape) for name, (dtype, shape) in start_shapes(model.config).items()}
    assert shapes == {name: (array.dtype, array.shape) for name, array in to_tensors(model).items()}


def test_the_masks_of_a_start_are_those_of_its_config(model: SpikingLM) -> None:
    start, fresh = to_tensors(model), to_tensors(SpikingLM(model.config))
    for name in start.keys() - {"theta0"}:
        assert np.array_equal(start[name], fresh[name]), name


@pytest.mark.parametrize(("rows", "columns", "fan_in"), [(8, 7, 3), (5, 3, 1), (16, 64, 64), (3, 9, 0), (0, 9, 2)])
def test_mask_bits_are_those_of_the_mask(rows: int, columns: int, fan_in: int) -> None:
    chosen = draw_columns(1, "x", range(rows), num_columns=columns, fan_in=fan_in)
    mask = np.zeros((rows, columns), np.bool_)
    np.put_along_axis(mask, chosen.astype(np.int64), True, axis=1)
    assert init.mask_bits(chosen, columns).tobytes() == np.packbits(mask.reshape(-1)).tobytes()


def test_a_start_in_small_pieces_is_the_same(
    config: ModelConfig, tokens: npt.NDArray[np.int64], model: SpikingLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many rows settle together is a matter of memory."""
    monkeypatch.setattr(init, "ROWS", 16)
    again = to_tensors(initialise(config, tokens, seed=3, num_threads=2))
    assert {k: v.tobytes() for k, v in again.items()} == {k: v.tobytes() for k, v in to_tensors(model).items()}


def test_progress_comes_to_its_end(config: ModelConfig, tokens: npt.NDArray[np.int64]) -> None:
    told: list[int] = []

    class Told:
        def begin(self, label: str, total: int, unit: str = "bytes") -> None:
            told.append(-total)

        def advance(self, amount: int) -> None:
            told.append(amount)

    init.write_start(config, tokens, seed=3, sink=init._Kept(config), progress=Told())
    assert len(told) > 4 and sum(told) == 0
