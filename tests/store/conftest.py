from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from spikemesh.store import Store


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for one node that is not there yet, in memory where the system offers that."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        yield Path(place) / "node"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with Store.open(folder) as opened:
        yield opened
