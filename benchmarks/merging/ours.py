"""How `spikemesh` is called here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from merging.meter import Run, measure

SPIKEMESH: list[str | Path] = [sys.executable, "-m", "spikemesh"]
IN_PROCESS: list[str | Path] = [sys.executable, Path(__file__).parent / "in_process.py"]


def merge(inputs: Sequence[Path], out: Path, *, rule: str = "active-mean", limit_s: float = 600) -> Run:
    """`spikemesh merge`, as a whole process."""
    return measure([*SPIKEMESH, "merge", *inputs, "-o", out, "--rule", rule, "--json"], limit_s=limit_s)


def verify(inputs: Sequence[Path], out: Path, *, limit_s: float = 600) -> Run:
    """`spikemesh verify`: the merge again, compared bit by bit with `out`."""
    return measure([*SPIKEMESH, "verify", out, *inputs], limit_s=limit_s)


def in_process(inputs: Sequence[Path], out: Path, warm_up: Sequence[Path]) -> Run:
    """`spikemesh.merge` in a process that has imported it; says what it took."""
    return measure([*IN_PROCESS, out, *warm_up, *inputs])
