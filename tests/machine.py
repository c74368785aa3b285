"""What a machine must let a test do. Otherwise the test is skipped or, where `REQUIRED` is set, as in CI, fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

REQUIRED = "SPIKEMESH_REQUIRE_CHAOS"
FAULTS_SOURCE = Path(__file__).parent / "store" / "faults.c"


def cannot(why: str) -> NoReturn:
    """End the test. `why` goes on after "this machine"."""
    if os.environ.get(REQUIRED):
        pytest.fail(f"{REQUIRED} is set, and this machine {why}")
    pytest.skip(f"this machine {why}")


@contextmanager
def small_disk(place: Path, size: str = "3m") -> Iterator[Path]:
    """A file system of its own at `place`, which fills up soon."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        cannot("may not mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def make_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)


def faults_library(folder: Path) -> Path:
    """`faults.c`, to be preloaded, in `folder`."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        cannot("needs Linux and a C compiler for faults")
    library = folder / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, FAULTS_SOURCE, "-ldl"], check=True)
    return library
