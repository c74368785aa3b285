"""A machine that cannot make network namespaces skips this folder and says what it lacks; CI must not lack it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine import cannot
from tests.network.lab import Lab, missing


@pytest.fixture(scope="session")
def lab_works() -> None:
    if (lack := missing()) is not None:
        cannot(lack)


@pytest.fixture
def lab(lab_works: None) -> Iterator[Lab]:
    with Lab() as made:
        yield made
