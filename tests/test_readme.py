"""What the README shows is true: its Python runs, its files exist, its verbs and targets are there."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from spikemesh.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_its_python_runs() -> None:
    failures, tried = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert tried >= 5
    assert failures == 0


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_its_commands_exist() -> None:
    verbs = {command.callback.__name__ for command in app.registered_commands if command.callback}
    shown = set(re.findall(r"^spikemesh ([a-z]+)", README, re.MULTILINE))
    assert shown <= verbs and {"init", "join", "generate", "status"} <= shown
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z]+)`", README):
        assert f"\n{target}:" in makefile


def test_it_is_short_enough_to_read() -> None:
    assert len(README.splitlines()) <= 150
