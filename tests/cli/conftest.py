from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spikemesh.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """A command in this process: its exit code and what it wrote."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["spikemesh", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few files of the standard library: enough to train on, quick to read."""
    folder = tmp_path_factory.mktemp("text")
    for module in ("argparse", "ast", "asyncio.tasks", "calendar", "csv", "dataclasses", "difflib", "inspect"):
        source = Path(__import__(module, fromlist=["x"]).__file__ or "")
        shutil.copy(source, folder / f"{module}.py")
    return folder
