"""Coordinates are in name order and row-major; the shipped start is checked before it is used."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from spikemesh.errors import InvalidData
from spikemesh.snn import (
    Layout,
    ModelConfig,
    SpikingLM,
    dense_tensors,
    model_from_dense,
    model_from_tensors,
    to_tensors,
)


def test_coordinates_are_in_name_order_row_major_and_skip_the_mask(model: SpikingLM) -> None:
    layout = Layout.of(model)
    names = [tensor.name for tensor in layout.tensors]
    assert names == sorted(names) == sorted(name for name, _ in model.named_parameters())
    expected = []
    for tensor in layout.tensors:
        values = model.get_parameter(tensor.name).detach().numpy()
        assert tensor.shape == values.shape
        if tensor.masked:
            values = values[model.get_buffer(tensor.name.replace("weight", "mask")).numpy()]
        expected.append(values.ravel())
        assert tensor.num_coordinates == values.size
    theta = layout.gather(model)
    assert theta.dtype == np.float32 and layout.num_coordinates == len(theta)
    assert np.array_equal(theta, np.concatenate(expected))


def test_scatter_is_the_inverse_of_gather(model: SpikingLM, config: ModelConfig) -> None:
    layout = Layout.of(model)
    theta = np.random.default_rng(0).standard_normal(layout.num_coordinates).astype(np.float32)
    layout.scatter_(model, theta)
    assert np.array_equal(layout.gather(model), theta)
    dense = dense_tensors(model)
    for tensor in layout.tensors:
        assert np.count_nonzero(dense[tensor.name]) == tensor.num_coordinates
    with pytest.raises(ValueError):
        layout.scatter_(model, theta[:-1])


def test_the_start_travels_as_tensors(model: SpikingLM, config: ModelConfig) -> None:
    tensors = to_tensors(model)
    assert {tensors[name].dtype for name in tensors if name != "theta0"} == {np.dtype(np.uint8)}
    again = model_from_tensors(config, tensors)
    assert Layout.of(again) == Layout.of(model)
    for (name, a), (_, b) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def _flip(tensors: dict[str, npt.NDArray[Any]], name: str, position: int, bits: int) -> None:
    tensors[name] = tensors[name].copy()
    tensors[name][position] ^= bits


def _attacks(tensors: dict[str, npt.NDArray[Any]]) -> list[dict[str, npt.NDArray[Any]]]:
    theta, mask = tensors["theta0"], "mask.head.weight"
    missing = {name: values for name, values in tensors.items() if name != mask}
    one_more, one_less, moved = dict(tensors), dict(tensors), dict(tensors)
    byte = int(np.flatnonzero((tensors[mask] > 0) & (tensors[mask] < 255))[0])
    lowest = int(tensors[mask][byte]) & -int(tensors[mask][byte])
    _flip(one_less, mask, byte, lowest)
    _flip(one_more, mask, byte, ~int(tensors[mask][byte]) & (int(tensors[mask][byte]) + 1) & 0xFF)
    moved[mask] = np.concatenate([tensors[mask][1:], tensors[mask][:1]])
    nan = theta.copy()
    nan[5] = np.nan
    return [
        {},
        missing,
        tensors | {"extra": theta},
        tensors | {"theta0": theta[:-1]},
        tensors | {"theta0": theta.astype(np.float64)},
        tensors | {"theta0": theta[None]},
        tensors | {"theta0": nan},
        tensors | {mask: tensors[mask][:-1]},
        tensors | {mask: tensors[mask].astype(np.int64)},
        tensors | {mask: np.full_like(tensors[mask], 255)},
        one_more,
        one_less,
        moved,
    ]


def test_tensors_that_do_not_fit_are_refused(model: SpikingLM, config: ModelConfig) -> None:
    tensors = to_tensors(model)
    for number, attack in enumerate(_attacks(tensors)):
        with pytest.raises(InvalidData):
            model_from_tensors(config, attack)
            pytest.fail(f"attack {number} was taken")
    with pytest.raises(InvalidData):
        model_from_tensors(ModelConfig(width=48, hidden=63, num_blocks=2, density=0.25), tensors)


def test_a_dense_checkpoint_reads_back(model: SpikingLM, config: ModelConfig) -> None:
    tensors = dense_tensors(model)
    again = model_from_dense(config, tensors)
    for (name, a), (_, b) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    name = "blocks.1.w_in.weight"
    attacks: list[dict[str, npt.NDArray[Any]]] = [
        {k: v for k, v in tensors.items() if k != name},
        tensors | {"more": tensors[name]},
        tensors | {name: tensors[name].T},
        tensors | {name: tensors[name].astype(np.float64)},
        tensors | {name: np.where(tensors[name] == 0, np.float32(0), np.float32(np.inf))},
        tensors | {name: np.full_like(tensors[name], np.nan)},
    ]
    for number, attack in enumerate(attacks):
        with pytest.raises(InvalidData):
            model_from_dense(config, attack)
            pytest.fail(f"attack {number} was taken")


def test_padding_bits_of_a_mask_are_zero() -> None:
    config = ModelConfig(width=3, hidden=5, num_blocks=1, density=0.4)
    tensors = to_tensors(SpikingLM(config))
    name = "mask.blocks.0.w_in.weight"
    assert len(tensors[name]) == 2
    _flip(tensors, name, 1, 1)
    with pytest.raises(InvalidData, match="after bit 15"):
        model_from_tensors(config, tensors)
