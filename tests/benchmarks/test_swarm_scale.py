"""The scale benchmark on small swarms, and that what is committed went as far as it should and holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.hang import HANG_S

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_small_swarms_hold_the_bars() -> None:
    command = [sys.executable, BENCHMARKS / "swarm_scale.py", "--nodes", "10", "50"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    for size in (10, 50):
        assert lines[f"nodes{size}.median_periods_to_99"]["value"] > 0
        assert 0 < lines[f"nodes{size}.repeated"]["value"] <= 3
        assert 0 < lines[f"nodes{size}.control_idle"]["value"] < lines[f"nodes{size}.control_busy"]["value"]


def test_what_is_committed_reaches_ten_thousand_nodes_and_holds() -> None:
    document = json.loads((BENCHMARKS / "results" / "swarm_scale.json").read_text())
    lines = {line["name"]: line for line in document["results"]}
    assert {"nodes10.periods_to_99", "nodes10000.periods_to_99", "growth.control_idle", "growth.control_busy"} <= set(
        lines
    )
    assert all(line["holds"] for line in lines.values())
    assert (BENCHMARKS / "results" / "swarm_scale.svg").stat().st_size > 1000
