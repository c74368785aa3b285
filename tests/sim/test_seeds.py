"""One seed, one run, to the bit: in this process, in another one, whatever Python's hashes are seeded with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from spikemesh.sim import simulate
from tests.hang import HANG_S


def told(seed: int, hash_seed: int) -> dict[str, Any]:
    """The scenario's outcome, from a process of its own."""
    command = [sys.executable, "-m", "spikemesh", "simulate", "--scenario", "chaos", "--nodes", "40", "--json"]
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    result = subprocess.run(
        [*command, "--seed", str(seed)], env=environment, capture_output=True, text=True, timeout=HANG_S, check=True
    )
    outcome: dict[str, Any] = json.loads(result.stdout)
    return outcome


def test_two_processes_do_the_same_things_at_the_same_moments() -> None:
    first, second = told(3, hash_seed=1), told(3, hash_seed=2)
    assert first == second
    assert first["trace"] == simulate("chaos", num_nodes=40, seed=3).trace


@pytest.mark.parametrize("name", ["chaos", "flapping-peer"])
def test_another_seed_is_another_run(name: str) -> None:
    traces = {simulate(name, num_nodes=20 if name == "chaos" else 4, seed=seed).trace for seed in (1, 2, 3)}
    assert len(traces) == 3
