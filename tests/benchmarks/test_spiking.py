"""The benchmarks of training at a small scale: they finish, both sides do the same work, and bars are printed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.spiking.rounds import Worker, in_turn, seconds_of
from tests.hang import HANG_S

from spikemesh.kernels import native

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LOOP = {"SPIKEMESH_KERNELS": "numpy"}

pytestmark = pytest.mark.skipif(native is None, reason="the kernels are not compiled")


def lines_of(script: str, *arguments: str) -> dict[str, dict[str, object]]:
    command = [sys.executable, BENCHMARKS / script, "--set", native.instruction_sets[0], *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines, done.stderr
    assert {line["set"] for line in lines} == {native.instruction_sets[0]}
    return {line["name"]: line for line in lines}


def test_neurons_in_the_kernel_and_in_the_loop_fire_alike() -> None:
    command = [sys.executable, BENCHMARKS / "spiking" / "lif_worker.py", "spikemesh"]
    makers = {"kernel": lambda: Worker(command), "loop": lambda: Worker(command, LOOP)}
    answers = in_turn(makers, 1)
    kernel, loop = (answers[name][0]["rate"] for name in makers)
    assert kernel == pytest.approx(loop, abs=1e-4) and 0.05 < kernel < 0.5
    assert all(min(seconds) > 0 for seconds in seconds_of(answers).values())


def test_a_worker_that_fails_says_so() -> None:
    with pytest.raises(RuntimeError, match="ended with 3"), Worker([sys.executable, "-c", "raise SystemExit(3)"]):
        pass


def test_one_layer_is_measured() -> None:
    lines = lines_of("kernels.py", "--only", "synapses", "--rounds", "1")
    assert lines["synapses.over_masked"]["bar"] == (None if native.instruction_sets[0] == "generic" else 4.0)
    least, most = lines["synapses.over_masked"]["spread"]
    assert 0 < least == lines["synapses.over_masked"]["value"] == most, "of one pair"
    assert {"synapses.masked", "synapses.synapses", "synapses.moved"} <= set(lines)


def test_every_kernel_is_measured_alone_and_beside_the_plain_one() -> None:
    lines = lines_of("kernels.py", "--only", "alone", "--rounds", "1")
    kernels = {"product", "transposed", "gradient", "token", "select", "quantise", "encode", "fold", "combine"}
    kernels |= {f"{kind}_{way}" for kind in ("lif", "currents") for way in ("forward", "backward")}
    assert {f"alone.{kernel}" for kernel in kernels} <= set(lines)
    compared = {f"alone.{kernel}.over_generic" for kernel in kernels}
    assert (compared <= set(lines)) == (native.instruction_sets[0] != "generic")


@pytest.mark.parametrize("how", ["copy", "add"])
def test_bandwidth_counts_what_is_read_and_written(how: str) -> None:
    with Worker([sys.executable, BENCHMARKS / "spiking" / "bandwidth_worker.py", how]) as worker:
        answer = worker.step()
    assert answer["bytes"] == {"copy": 4, "add": 6}[how] * 4 * 8 * 4096 * 512 and answer["seconds"] > 0


def test_a_step_of_a_small_model_is_measured() -> None:
    lines = lines_of("train_step.py", "--shape", "large", "--width", "64", "--hidden", "160", "--steps", "3")
    assert lines["loss.apart"]["holds"] and lines["one_core.ratio"]["bar"] in (5.0, None)
    assert lines["memory.share"]["bar"] == 0.12 and lines["peak.sparse"]["unit"] == "bytes"
    assert not lines["model.weights"]["holds"], "it is small"
