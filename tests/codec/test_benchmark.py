"""The wire benchmark and its harness: they hold, they say so in their exit code, and what is committed is current."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.hang import HANG_S

from benchmarks import harness

ROOT = Path(__file__).parents[2]
KEYS = {"name", "value", "unit", "bar", "holds", "against"}


def test_the_wire_benchmark_holds() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "wire.py"], capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(line.keys() == KEYS and line["holds"] for line in lines)
    committed: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "wire.json").read_text())
    sizes = {line["name"]: line["value"] for line in lines if line["name"].startswith("wire.")}
    assert {r["name"]: r["value"] for r in committed["results"] if r["name"] in sizes} == pytest.approx(sizes, rel=1e-3)
    assert committed["command"] == "python benchmarks/wire.py --commit"


def test_a_bar_that_does_not_hold_fails_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    report = harness.Report("some/script.py", arguments=["--commit"])
    report.at_most("a", 1.0, "s", bar=1.0, against="x")
    report.at_least("b", 1.0, "s", bar=1.0, against="x")
    report.fact("c", 123.456789, "s", against="x")
    assert report.finish() == 0
    report.at_most("d", 1.00001, "s", bar=1.0, against="x")
    assert report.finish() == 1
    report = harness.Report("some/script.py", arguments=["--commit"])
    report.at_least("e", float("nan"), "s", bar=1.0, against="x")
    assert report.finish() == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["holds"] for line in lines] == [True, True, True, False, False]
    document = json.loads((tmp_path / "results" / "script.json").read_text())
    assert [line["name"] for line in document["results"]] == ["e"]
    assert document["command"] == "python benchmarks/script.py --commit"
    assert {"cpu", "cores", "memory_bytes", "python", "numpy", "torch"} <= document["hardware"].keys()
