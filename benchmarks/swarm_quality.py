"""The main job, measured: `spikemesh demo` for two seeds, from nothing to its report, held against the bars.

Each demo starts four volunteers as processes, kills one with SIGKILL, lets another join late, and then trains what the
merged model is compared with: one volunteer alone for the same steps, and one joint run with four times the batch.
Takes about six minutes per seed on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import Report


def demo(folder: Path, seed: int) -> tuple[dict[str, Any], float]:
    """Run the demo in a process of its own; its report and the wall seconds."""
    start_s = time.monotonic()
    command = [sys.executable, "-m", "spikemesh", "demo", "--full", "--folder", str(folder), "--seed", str(seed)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return json.loads((folder / "report.json").read_text()), time.monotonic() - start_s


def tell(report: Report, name: str, run: dict[str, Any], wall_s: float) -> None:
    """The bars and facts of one demo."""
    loss, wire = run["loss"], run["wire"]
    nats, per_coordinate = "nats per byte", "bytes per coordinate"
    digests = {(node["digest"], node["set_digest"]) for node in run["nodes"]}
    report.at_most(
        f"{name}.different_digests", len(digests), "digests", bar=1, against=f"{len(run['nodes'])} volunteers"
    )
    report.at_most(f"{name}.loss.merged", loss["merged"], nats, bar=2.0, against=f"bigram: {loss['bigram']:.3f}")
    report.fact(f"{name}.loss.lone", loss["lone"], nats, against="one volunteer alone, same steps")
    report.fact(f"{name}.loss.joint", loss["joint"], nats, against="one run, four times the batch")
    report.at_least(f"{name}.gain", loss["lone"] - loss["merged"], nats, bar=0.08, against="the lone volunteer")
    report.at_least(f"{name}.gap_closed", loss["gap_closed"], "fraction", bar=0.6, against="from lone to joint")
    report.fact(f"{name}.wire.encoded", wire["bytes_per_coordinate"], per_coordinate, against="fp32: 4")
    transport = wire["transport_bytes_per_coordinate"]
    report.at_most(f"{name}.wire.transport", transport, f"{per_coordinate} and receiver", bar=0.4, against="fp32: 4")
    report.at_most(f"{name}.peak_rss", run["peak_rss_bytes"], "bytes", bar=1.5e9, against="the largest volunteer")
    report.at_most(f"{name}.train_seconds", run["train_seconds"], "s", bar=360, against="swarm and both baselines")
    report.at_most(f"{name}.wall_seconds", wall_s, "s", bar=900, against="from start to report")
    report.fact(f"{name}.num_coordinates", run["num_coordinates"], "alive coordinates", against="")
    report.fact(f"{name}.density", run["density"], "fraction", against="of the weights behind masks")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    report = Report(__file__, parser=parser)
    with tempfile.TemporaryDirectory() as place:
        for seed in report.arguments.seeds:
            tell(report, f"seed{seed}", *demo(Path(place) / f"seed-{seed}", seed))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
