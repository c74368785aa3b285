"""`make install` and `make develop` say each step before it runs, and how long it takes."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STEP = ROOT / ".ci" / "step"


def test_a_step_is_told_before_and_after() -> None:
    done = subprocess.run(
        [sys.executable, STEP, "1/3", "75", "torch", "echo", "at work"], capture_output=True, text=True
    )
    before, output, after = done.stdout.splitlines()
    assert before == "[1/3] torch: about 1 min 15 s on a common machine" and output == "at work"
    assert after.startswith("[1/3] torch: done in") and done.returncode == 0


def test_a_step_that_fails_says_so_and_ends_with_its_code() -> None:
    command = [sys.executable, STEP, "2/3", "9", "compiler", "sh", "-c", "exit 7"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 7 and "[2/3] compiler: failed with code 7 in" in done.stdout


@pytest.mark.parametrize(
    ("spent_s", "words"),
    [
        (10, "10 s, about 1 min 05 s left"),
        (74.9, "1 min 15 s, slower than usual, still at work"),
        (200, "3 min 20 s, slower than usual, still at work"),
    ],
)
def test_time_left(spent_s: float, words: str) -> None:
    assert runpy.run_path(str(STEP))["progress"](spent_s, 75.0) == words


def test_every_command_that_takes_long_is_a_step() -> None:
    """What make would run in a clean clone, without running it."""
    plan = subprocess.run(
        ["make", "--dry-run", "--always-make", "develop"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    long = [line for line in plan if "pip install" in line or "-m venv" in line]
    assert len(long) == 4 and all(".ci/step" in line for line in long), plan
