"""The scale benchmark on small swarms, and that what is committed is what it prints."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import swarm_scale
from spikemesh.sim import run_virtually

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_fifty_nodes_hold_the_bars() -> None:
    measured = run_virtually(swarm_scale.measure(50, seed=1))
    assert 0 < measured.slowest_periods <= 1.5 * 5.64
    assert 0 < measured.repeated <= 3.0
    assert 0 < measured.idle_bytes < measured.busy_bytes


def test_what_is_committed_reaches_ten_thousand_nodes_and_holds() -> None:
    document = json.loads((RESULTS / "swarm_scale.json").read_text())
    lines = {line["name"]: line for line in document["results"]}
    assert {f"nodes{size}.periods_to_99" for size in swarm_scale.SIZES} <= lines.keys()
    assert all(line["holds"] for line in lines.values())
    assert (RESULTS / "swarm_scale.svg").stat().st_size > 1000
