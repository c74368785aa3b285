from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spikemesh.checkpoint.known import CACHE_VARIABLE

MEMORY = Path("/dev/shm")


@contextmanager
def place() -> Iterator[Path]:
    """A folder of its own, in memory where the system offers that, with an index of known files inside."""
    memory = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, f"{name}/cache")
        yield Path(name)


@pytest.fixture
def folder() -> Iterator[Path]:
    with place() as path:
        yield path
