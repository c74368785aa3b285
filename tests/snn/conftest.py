"""A small model that every test of this room shares."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from spikemesh.snn import ModelConfig, SpikingLM, initialise


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    return ModelConfig(width=48, hidden=64, num_blocks=2, density=0.25)


@pytest.fixture(scope="session")
def tokens() -> npt.NDArray[np.int64]:
    """Real text, [B, L]."""
    text = np.frombuffer(Path(argparse.__file__).read_bytes(), np.uint8)
    starts = np.random.default_rng(5).integers(0, len(text) - 96, 24)
    return text[starts[:, None] + np.arange(96)].astype(np.int64)


@pytest.fixture
def model(config: ModelConfig, tokens: npt.NDArray[np.int64]) -> SpikingLM:
    torch.set_num_threads(1)
    return initialise(config, tokens, seed=3)
