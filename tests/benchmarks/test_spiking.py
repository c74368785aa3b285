"""The benchmarks of training at a small scale: they finish, both sides do the same work, and bars are printed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.spiking.rounds import Worker, in_turn, medians

from spikemesh.kernels import native

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LOOP = {"SPIKEMESH_KERNELS": "numpy"}

pytestmark = pytest.mark.skipif(native is None, reason="the kernels are not compiled")


def lines_of(script: str, *arguments: str) -> dict[str, dict[str, object]]:
    command = [sys.executable, BENCHMARKS / script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines, done.stderr
    return {line["name"]: line for line in lines}


def test_neurons_in_the_kernel_and_in_the_loop_fire_alike() -> None:
    command = [sys.executable, BENCHMARKS / "spiking" / "lif_worker.py", "spikemesh"]
    makers = {"kernel": lambda: Worker(command), "loop": lambda: Worker(command, LOOP)}
    answers = in_turn(makers, 1)
    kernel, loop = (answers[name][0]["rate"] for name in makers)
    assert kernel == pytest.approx(loop, abs=1e-4) and 0.05 < kernel < 0.5
    assert all(seconds > 0 for seconds in medians(answers).values())


def test_a_worker_that_fails_says_so() -> None:
    with pytest.raises(RuntimeError, match="ended with 3"), Worker([sys.executable, "-c", "raise SystemExit(3)"]):
        pass


def test_one_layer_is_measured() -> None:
    lines = lines_of("kernels.py", "--only", "synapses", "--rounds", "1")
    assert lines["synapses.over_masked"]["bar"] == 4.0
    assert {"synapses.masked", "synapses.synapses", "synapses.moved"} <= set(lines)


def test_a_step_of_a_small_model_is_measured() -> None:
    lines = lines_of("train_step.py", "--width", "64", "--hidden", "160", "--steps", "3")
    assert lines["loss.apart"]["holds"] and lines["one_core.ratio"]["bar"] == 3.0
    assert lines["memory.share"]["bar"] == 0.12 and lines["peak.sparse"]["unit"] == "bytes"
    assert not lines["model.weights"]["holds"], "it is small"
