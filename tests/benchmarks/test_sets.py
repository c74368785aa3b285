"""Benchmarks per instruction set: everybody is limited alike, and results of other sets stay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.hang import HANG_S

from spikemesh.kernels import native

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SETS = native.instruction_sets if native is not None else []
X86 = "avx2" in SETS

SCRIPT = """
import argparse, sys
sys.path.insert(0, {benchmarks!r})
import harness, sets
harness.RESULTS = sets.RESULTS = __import__("pathlib").Path(__file__).parent
from harness import Spread

def measure(report):
    import numpy, torch
    report.fact("torch", torch.backends.cpu.get_cpu_capability(), "", against="")
    report.fact("numpy", " ".join(numpy.show_config(mode="dicts")["SIMD Extensions"].get("found", [])), "", against="")
    ratio = Spread.of_ratios([4.0, 9.0, 8.0], [2.0, 3.0])
    report.at_least("ratio", ratio, "", bar=sets.bar_in(report, 2.0), against="")

sys.exit(sets.per_set(__file__, argparse.ArgumentParser(), measure))
"""

pytestmark = pytest.mark.skipif(native is None, reason="the kernels are not compiled")


def run(folder: Path, *arguments: str) -> tuple[dict[str, dict[str, dict[str, object]]], str]:
    """The lines by set and name, and what was said beside them."""
    script = folder / "trial.py"
    script.write_text(SCRIPT.format(benchmarks=str(BENCHMARKS)))
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Prescott"}
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: {line["name"]: line for line in lines if line["set"] == name} for name in SETS}, done.stderr


@dataclass(frozen=True)
class Measured:
    folder: Path
    by_set: dict[str, dict[str, dict[str, object]]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Of all sets; it takes as many processes as there are sets, each with a torch of its own."""
    folder = tmp_path_factory.mktemp("trial")
    return Measured(folder, run(folder, "--commit")[0])


def test_each_set_is_measured_and_kept_by_itself(measured: Measured) -> None:
    by_set = measured.by_set
    assert all(set(lines) == {"torch", "numpy", "ratio"} for lines in by_set.values())
    for name, lines in by_set.items():
        document = json.loads((measured.folder / f"trial.{name}.json").read_text())
        assert document["set"] == name and document["hardware"]["cpu"] and f"--set {name}" in document["command"]
        assert document["results"] == list(lines.values())
        assert lines["ratio"]["spread"] == [2.0, 3.0] and lines["ratio"]["value"] == 2.5
        assert lines["ratio"]["bar"] == (None if name == "generic" else 2.0)


@pytest.mark.skipif(not X86, reason="this processor has one instruction set")
def test_torch_and_numpy_are_limited(measured: Measured) -> None:
    by_set = measured.by_set
    assert by_set["avx2"]["torch"]["value"] == "AVX2" and by_set["generic"]["torch"]["value"] == "DEFAULT"
    assert "X86_V4" not in by_set["avx2"]["numpy"]["value"].split() and by_set["generic"]["numpy"]["value"] == ""
    if "avx512" in by_set:
        assert by_set["avx512"]["torch"]["value"] == "AVX512", "a limit that was inherited does not count"
    limits = json.loads((measured.folder / "trial.avx2.json").read_text())["limits"]
    assert limits["MKL_ENABLE_INSTRUCTIONS"] == "AVX2" and limits["OPENBLAS_CORETYPE"] == "Haswell"


def test_what_other_machines_measured_is_kept_and_named(tmp_path: Path) -> None:
    kept = json.dumps({"set": "sve", "date": "2026-01-02", "hardware": {"cpu": "Another"}, "results": []})
    (tmp_path / "trial.sve.json").write_text(kept)
    by_set, said = run(tmp_path, "--commit", "--set", SETS[-1])
    assert [name for name, lines in by_set.items() if lines] == [SETS[-1]]
    assert "trial: sve was not measured; its results are those of 2026-01-02 on Another" in said
    assert (tmp_path / "trial.sve.json").read_text() == kept


def test_what_fell_by_more_than_its_spread_is_named(tmp_path: Path) -> None:
    name = SETS[-1]
    document = {"date": "2026-01-02", "hardware": {"cpu": "Another"}, "set": name}
    for was, told in ((3.1, True), (3.0, False)):
        committed = json.dumps({**document, "results": [{"name": "ratio", "value": was}]})
        (tmp_path / f"trial.{name}.json").write_text(committed)
        _, said = run(tmp_path, "--set", name)
        assert (f"ratio: 2.5 (2.0 to 3.0), it was {was}, 2026-01-02 on Another" in said) == told
