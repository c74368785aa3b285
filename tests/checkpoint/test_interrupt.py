"""Stopped in the middle: no half file at OUT, nothing unfinished beside it, and an exit code that says so."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spikemesh.checkpoint import merge
from tests.checkpoint.files import Raw, leftovers, write_safetensors
from tests.checkpoint.slow_merge import STRETCH
from tests.hang import HANG_S, until

ROOT = Path(__file__).parent.parent.parent
NUM_ELEMENTS = 20 << 20
NUM_STRETCHES = 80
SECONDS = 0.2  # for each


@pytest.fixture
def inputs(folder: Path) -> list[Path]:
    paths = []
    for number in (1, 2):
        raw = Raw("F32", (NUM_ELEMENTS,), np.full(NUM_ELEMENTS, number, "<f4").tobytes())
        paths.append(write_safetensors(folder / f"{number}.safetensors", {"w": raw}))
    return paths


def as_from_a_terminal() -> None:
    """A process in the background of a shell ignores Ctrl-C, one under nohup a closed terminal."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start(inputs: list[Path], out: Path, *options: str) -> subprocess.Popen[str]:
    """A merge that has begun to write."""
    command = [sys.executable, "-m", "tests.checkpoint.slow_merge", str(SECONDS), "merge", *map(str, inputs)]
    running = subprocess.Popen(
        [*command, "-o", str(out), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=as_from_a_terminal,
    )
    until(lambda: bool(leftovers(out.parent)) or running.poll() is not None, lambda: contents(out.parent))
    assert running.poll() is None, running.communicate()
    return running


STOPS = [
    (signal.SIGINT, "out.safetensors", "new"),
    (signal.SIGINT, "out.safetensors", "existing"),
    (signal.SIGINT, "out", "existing"),
    (signal.SIGTERM, "out.safetensors", "existing"),
    (signal.SIGHUP, "out", "new"),
]


@pytest.mark.parametrize(("number", "out", "existing"), STOPS, ids=lambda part: getattr(part, "name", part))
def test_stopped(number: signal.Signals, out: str, existing: str, inputs: list[Path], folder: Path) -> None:
    target = folder / out
    if existing == "existing":
        merge(inputs[:1], out=target)
    before = contents(target)
    running = start(inputs, target, "--force")
    running.send_signal(number)
    stdout, stderr = running.communicate(timeout=HANG_S)
    assert stderr.count(STRETCH) < NUM_STRETCHES  # it did not go on to the end
    assert running.returncode == 130
    assert stdout == "" and "Traceback" not in stderr and "Exception" not in stderr
    assert not leftovers(folder)
    assert contents(target) == before


def contents(path: Path) -> dict[str, bytes]:
    files = path.rglob("*") if path.is_dir() else [path] if path.exists() else []
    return {file.name: file.read_bytes() for file in files}


def test_killed(inputs: list[Path], folder: Path) -> None:
    """Then the unfinished file stays, under a name that nobody takes for a checkpoint, and is in nobody's way."""
    target = folder / "out.safetensors"
    merge(inputs[:1], out=target)
    before = contents(target)
    running = start(inputs, target, "--force")
    running.kill()
    running.communicate(timeout=HANG_S)
    assert contents(target) == before
    assert len(leftovers(folder)) == 1
    merge(inputs, out=target, force=True)
