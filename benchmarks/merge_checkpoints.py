"""Merging whole checkpoints, measured: against the disk, and side by side with crdt-merge and mergekit.

Parts, all by default:
  shape    two checkpoints of 12.2 GiB, against cat and cp (40 GB of disk)
  flat     peak memory with 2 and with 8 inputs
  side     whole processes on 400 MB and 3 GB pairs: we, crdt-merge 0.11.0, mergekit 0.1.5
  imports  inside a process, after imports: we and mergekit's in-memory API
  rules    sign-elect and trimmed-mean against the active mean
  laws     the correctness table
  real     two volunteers forked from one checkpoint, trained apart, merged (benchmarks/real_merge.py)

The peers live in a virtual environment under --work-dir, made on first use. A part's files go when it is done. With
--resume, parts that an earlier run under the same --work-dir has done are reported again and not measured again.
Runs on Linux (it reads /proc); give it an idle machine.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from environments import ROOT
from harness import Report
from merging.bench import Bench, KeptReport
from merging.flat import measure_flat
from merging.imports import measure_imports
from merging.laws import measure_laws
from merging.peers import Peers
from merging.rules import measure_rules
from merging.shape import measure_shape
from merging.side_by_side import measure_side_by_side


def measure_real(report: KeptReport, bench: Bench) -> None:
    """A benchmark of its own, which can be run alone too."""
    import real_merge

    with bench.files("real", 1 << 30) as folder:
        real_merge.measure(report.under("real"), folder)


PARTS = {
    "shape": measure_shape,
    "flat": measure_flat,
    "side": measure_side_by_side,
    "imports": measure_imports,
    "rules": measure_rules,
    "laws": measure_laws,
    "real": measure_real,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), metavar="PART")
    parser.add_argument("--rounds", type=int, default=5, help="how often each thing is timed (default 5)")
    parser.add_argument("--resume", action="store_true", help="do not measure again what was measured")
    parser.add_argument("--work-dir", type=Path, default=ROOT / "build" / "merging", help="default build/merging")
    report = Report(__file__, parser=parser)
    # So that what is running is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    arguments = report.arguments
    place = arguments.work_dir.resolve()
    bench = Bench(place=place, rounds=arguments.rounds, peers=Peers(place / "peers"))
    kept = KeptReport(report, place / "measured")
    for name in arguments.only:
        kept.part(name, lambda name=name: PARTS[name](kept, bench), resume=arguments.resume)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
