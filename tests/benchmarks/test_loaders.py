"""Every folder that a merge writes is read by the ecosystem's own loaders, with every element where it belongs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.environments import environment
from benchmarks.loading import PACKAGES, PLACE
from tests.machine import cannot

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "loaders.py"
RUN_S = 300


@pytest.fixture(scope="module")
def _installed() -> None:
    """A minute on first use; where packages are not to be had, a skip, or a failure where nothing may be skipped."""
    try:
        environment(PLACE, packages=PACKAGES)
    except subprocess.CalledProcessError:
        cannot("cannot install transformers, diffusers and PEFT")


@pytest.mark.usefixtures("_installed")
def test_every_folder_is_loaded_and_every_element_is_right() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=RUN_S, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines, done.stderr[-2000:]
    assert [line for line in lines if not line["holds"]] == []
    assert done.returncode == 0 and len(lines) > 60
