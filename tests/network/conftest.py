"""A machine that cannot make network namespaces skips this folder and says what it lacks; CI must not lack it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.network.lab import Lab, missing

REQUIRED = "SPIKEMESH_REQUIRE_CHAOS"
"""Set in CI: there a missing tool or permission is a failure, never a skip."""


@pytest.fixture(scope="session")
def lab_works() -> None:
    if (lack := missing()) is not None:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, and this machine {lack}")
        pytest.skip(f"this machine {lack}")


@pytest.fixture
def lab(lab_works: None) -> Iterator[Lab]:
    with Lab() as made:
        yield made
