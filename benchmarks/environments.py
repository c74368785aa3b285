"""Virtual environments for the programs that we are held against, made on first use.

Nothing of theirs is imported by us.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TORCH = "torch==2.13.0"


def environment(place: Path, *, packages: Sequence[str], alone: Sequence[str] = ()) -> Path:
    """The folder of programs of an environment under `place` with our torch and `packages`.

    `alone` come without what they ask for: some would bring builds of torchvision for CUDA. What is there for the same
    packages is taken as it is.
    """
    programs, ready = place / "venv" / "bin", place / "ready"
    pins = "\n".join((TORCH, *packages, *alone))
    if ready.exists() and ready.read_text() == pins:
        return programs
    print(f"installing {', '.join((*packages, *alone))}", file=sys.stderr, flush=True)
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", programs.parent], check=True)
    pip = [programs / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    pip += ["--constraint", ROOT / "constraints.txt"]
    # torch first and by its pin, so that nothing else pulls in another build of it.
    for wanted in ((TORCH,), (TORCH, *packages), ("--no-deps", *alone) if alone else ()):
        if wanted:
            subprocess.run([*pip, *wanted], check=True, stdout=sys.stderr)
    ready.write_text(pins)
    return programs
