"""A file says what model it holds; what it says is checked before anything of that size is made."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from spikemesh.errors import InvalidData
from spikemesh.snn import (
    MODEL_KEY,
    MaskedLinear,
    ModelConfig,
    SpikingLM,
    dense_tensors,
    initialise,
    model_from_file,
    model_from_tensors,
    model_metadata,
    to_tensors,
)
from spikemesh.snn import layout as layout_module


def logits(model: SpikingLM, tokens: npt.NDArray[np.int64]) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(torch.from_numpy(tokens))[0]
    return out


def test_a_model_comes_back_from_its_file(model: SpikingLM, tokens: npt.NDArray[np.int64]) -> None:
    again = model_from_file(dense_tensors(model), model_metadata(model.config))
    assert again.config == model.config
    for (name, a), (_, b) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert torch.equal(logits(again, tokens), logits(model, tokens))


def test_the_description_is_the_same_text_for_the_same_config() -> None:
    text = model_metadata(ModelConfig(width=32))[MODEL_KEY]
    assert (
        text
        == model_metadata(ModelConfig.from_dict(dict(reversed(ModelConfig(width=32).to_dict().items()))))[MODEL_KEY]
    )
    values = json.loads(text)
    assert list(values) == sorted(values) and values == ModelConfig(width=32).to_dict()
    assert text != model_metadata(ModelConfig(width=33))[MODEL_KEY]


def test_a_union_of_two_masks_is_read_and_only_refused_as_a_start(
    config: ModelConfig, model: SpikingLM, tokens: npt.NDArray[np.int64]
) -> None:
    other = initialise(ModelConfig(**{**config.to_dict(), "mask_seed": 1}), tokens, seed=4)  # type: ignore[arg-type]
    ours, theirs = dense_tensors(model), dense_tensors(other)
    union = {name: np.where(ours[name] != 0, ours[name], theirs[name]) for name in ours}
    merged = model_from_file(union, model_metadata(config))
    layers = {name: module for name, module in merged.named_modules() if isinstance(module, MaskedLinear)}
    for name, layer in layers.items():
        assert layer.num_alive == np.count_nonzero(union[f"{name}.weight"]) > model.get_submodule(name).num_alive
    for name, values in dense_tensors(merged).items():
        assert np.array_equal(values, union[name])
    with pytest.raises(InvalidData, match="synapses per neuron"):
        model_from_tensors(config, to_tensors(merged))


def test_a_synapse_of_value_zero_makes_no_difference(model: SpikingLM, tokens: npt.NDArray[np.int64]) -> None:
    """Two parents' values may cancel exactly: the merged file has a zero where the run has a synapse."""
    tensors = dense_tensors(model)
    row, column = np.argwhere(tensors["head.weight"])[7]
    tensors["head.weight"][row, column] = 0
    with torch.no_grad():
        model.head.weight[row, column] = 0
    again = model_from_file(tensors, model_metadata(model.config))
    assert again.head.num_alive == model.head.num_alive - 1
    assert torch.equal(logits(again, tokens), logits(model, tokens))


def test_files_that_describe_nothing_or_nonsense_are_refused(model: SpikingLM, config: ModelConfig) -> None:
    tensors, good = dense_tensors(model), config.to_dict()
    texts: list[str | None] = [
        None,
        "",
        "width: 48",
        "[" * 40_000,
        json.dumps([good]),
        json.dumps("x"),
        json.dumps(good)[:-1],
        json.dumps(good | {"layers": 835}),
        json.dumps(good | {"width": "48"}),
        json.dumps(good | {"width": True}),
        json.dumps(good | {"width": 0}),
        json.dumps(good | {"width": 10**400}),
        json.dumps(good | {"density": float("nan")}),
        json.dumps(good | {"width": 24}),
        json.dumps(good | {"num_blocks": 1}),
        " " * (1 << 16) + json.dumps(good),
    ]
    for text in texts:
        metadata = {"digest": "ab"} if text is None else {MODEL_KEY: text}
        with pytest.raises(InvalidData) as caught:
            model_from_file(tensors, metadata)
        assert len(str(caught.value)) < 2000
    with pytest.raises(InvalidData):
        model_from_file(tensors | {"head.weight": tensors["head.weight"].astype(np.float64)}, model_metadata(config))


def test_a_small_file_cannot_ask_for_a_large_model(model: SpikingLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*_: Any) -> None:
        pytest.fail("the model was made")

    monkeypatch.setattr(layout_module, "model_from_dense", made)
    tensors = dense_tensors(model)
    for large in (ModelConfig(width=1 << 14, hidden=1 << 15), ModelConfig(width=49, hidden=64, num_blocks=3)):
        with pytest.raises(InvalidData, match="weights that the file describes"):
            model_from_file(tensors, model_metadata(large))
