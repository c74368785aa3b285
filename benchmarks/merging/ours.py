"""How `spikemesh` is called here. Except where it is said, a run remembers no file of an earlier one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from merging.meter import Run, measure

SPIKEMESH: list[str | Path] = [sys.executable, "-m", "spikemesh"]
IN_PROCESS: list[str | Path] = [sys.executable, Path(__file__).parent / "in_process.py"]


def merge(
    inputs: Sequence[Path],
    out: Path,
    *,
    rule: str = "active-mean",
    remember: bool = False,
    limit_s: float = 600,
) -> Run:
    """`spikemesh merge`, as a whole process."""
    command = [*SPIKEMESH, "merge", *inputs, "-o", out, "--rule", rule, "--json"]
    return measure(command, limit_s=limit_s, environment=_environment(out, remember))


def verify(inputs: Sequence[Path], out: Path, *, limit_s: float = 600) -> Run:
    """`spikemesh verify`: the merge again, compared bit by bit with `out`."""
    return measure([*SPIKEMESH, "verify", out, *inputs], limit_s=limit_s, environment=_environment(out))


def in_process(inputs: Sequence[Path], out: Path, warm_up: Sequence[Path]) -> Run:
    """`spikemesh.merge` in a process that has imported it; says what it took."""
    return measure([*IN_PROCESS, out, *warm_up, *inputs], environment=_environment(out))


def _environment(out: Path, remember: bool = False) -> dict[str, str]:
    """Where files that were seen are remembered."""
    cache = out.with_name("cache")
    if not remember:
        shutil.rmtree(cache, ignore_errors=True)
    return {"SPIKEMESH_CACHE": str(cache)}
