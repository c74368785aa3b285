"""A small run's start, and text to train it on."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from spikemesh.snn import ModelConfig, initialise, to_tensors
from spikemesh.train import Bytes, Recipe, Trainee, batch

Tensors = Mapping[str, npt.NDArray[Any]]


@pytest.fixture(scope="session")
def text() -> Bytes:
    return np.frombuffer(Path(argparse.__file__).read_bytes(), np.uint8)


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    return ModelConfig(width=48, hidden=64, num_blocks=1, density=0.25)


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(
        num_rounds=4,
        steps_per_round=3,
        batch_size=4,
        num_tokens=32,
        learning_rate=0.02,
        weight_decay=0.01,
        weight_power=1.0,
    )


@pytest.fixture(scope="session")
def start(config: ModelConfig, text: Bytes) -> Tensors:
    torch.set_num_threads(1)
    sample = batch(text, seed=1, step=0, batch_size=16, num_tokens=64)[:, :-1]
    return to_tensors(initialise(config, sample, seed=2))


@pytest.fixture
def make_trainee(config: ModelConfig, recipe: Recipe, start: Tensors, text: Bytes) -> Callable[..., Trainee]:
    return lambda seed=7, sparse=None: Trainee(config, recipe, start, text, seed=seed, sparse=sparse)
