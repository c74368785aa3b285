"""Making the start of a run: `init` of the preset 140m, and of a model of 1.1 billion places, on one core.

Each run is a process of its own, pinned to one core: seconds of processor time and of the clock, the process's peak
memory, the share of each step, and the hash of the start. Then the preset tiny on every instruction set that this
machine has, in NumPy, and on two threads: all starts must be the same bytes.

    python benchmarks/init.py --commit
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import Report
from spikemesh.kernels import native

WORKER = Path(__file__).parent / "spiking" / "init_worker.py"
BARS = {"140m": (60.0, 600e6), "1100m": (600.0, 4e9)}
"""Seconds, bytes."""


def made(size: str, *, threads: int = 1, kernels: str = "") -> dict[str, Any]:
    """What one worker says about the start that it made."""
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(
            [sys.executable, WORKER, size, str(threads), folder],
            env=os.environ | {"SPIKEMESH_KERNELS": kernels},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def report_size(report: Report, size: str) -> None:
    answer, (seconds, peak) = made(size), BARS[size]
    report.fact(f"{size}.places", answer["num_weights"], "weights", against="if all were there")
    report.fact(f"{size}.synapses", answer["num_synapses"], "weights", against="those that are there")
    report.at_most(f"{size}.seconds", answer["seconds"], "s", bar=seconds, against="one core, by the clock")
    report.fact(f"{size}.cpu", answer["cpu_s"], "s", against="the same, processor time")
    report.at_most(f"{size}.peak", answer["peak_bytes"], "bytes", bar=peak, against="the whole process")
    for step, share in answer["shares"].items():
        report.fact(f"{size}.share.{step}", share, "of the seconds", against=f"{answer['seconds']:.1f} s")
    report.fact(f"{size}.start", answer["hash"], "BLAKE3", against=f"{answer['num_bytes']} bytes")


def report_sameness(report: Report) -> None:
    sets = ("numpy", *(() if native is None else native.instruction_sets))
    hashes = {f"{name}, one thread": made("tiny", kernels=name)["hash"] for name in sets}
    hashes |= {f"{name}, two threads": made("tiny", kernels=name, threads=2)["hash"] for name in sets}
    against = "the preset tiny: " + "; ".join(hashes)
    report.at_most("starts", len(set(hashes.values())), "different starts", bar=1, against=against)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(BARS), help="one size instead of both")
    report = Report(__file__, parser=parser)
    for size in BARS:
        if report.arguments.only in (None, size):
            report_size(report, size)
    report_sameness(report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
