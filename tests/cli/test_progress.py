"""What long work shows of itself in a log and on a terminal, on a clock that the test turns."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass, field

import pytest
from rich.console import Console

from spikemesh.cli import progress
from spikemesh.cli.progress import LINE_PERIOD_S, SILENT_S, Lines, progress_text, shown_progress
from spikemesh.progress import SILENT


@dataclass
class Log:
    """Lines as they are printed, and the clock they are printed by."""

    now_s: float = 1000.0
    printed: list[str] = field(default_factory=list)

    def lines(self) -> Lines:
        return Lines(self.printed.append, lambda: self.now_s)

    def pass_time(self, lines: Lines, seconds: int) -> None:
        for _ in range(seconds):
            self.now_s += 1
            lines.tick()


def test_short_work_says_nothing() -> None:
    log = Log()
    lines = log.lines()
    lines.begin("merging", 100)
    lines.advance(50)
    log.pass_time(lines, int(SILENT_S) - 1)
    assert log.printed == []


def test_long_work_says_how_far_it_is_and_how_long_it_will_take() -> None:
    log = Log()
    lines = log.lines()
    lines.begin("calibrating", 12, "layers")
    lines.advance(3)
    log.pass_time(lines, 3)
    assert log.printed == ["[  0:03] calibrating: 3 of 12 layers, about 9 s left"]


def test_lines_come_while_nothing_moves_and_no_more_often_than_every_ten_seconds() -> None:
    log = Log()
    lines = log.lines()
    lines.begin("drawing weights", 40, "tensors")
    log.pass_time(lines, 60)
    assert len(log.printed) == 1 + (60 - int(SILENT_S)) // int(LINE_PERIOD_S)
    assert log.printed[-1] == "[  0:53] drawing weights: 0 of 40 tensors"


def test_time_left_is_that_of_the_work_at_hand() -> None:
    log = Log()
    lines = log.lines()
    lines.begin("reading", 100)
    log.pass_time(lines, 2)
    lines.begin("writing", 4_000_000_000)
    lines.advance(1_000_000_000)
    log.pass_time(lines, 1)
    assert log.printed == ["[  0:03] writing: 1.00 GB of 4.00 GB, about 3 s left"]


def test_what_nobody_can_know_is_not_said() -> None:
    assert progress_text("starting", 0, 0, "steps", 5.0) == "starting"
    assert progress_text("starting", 0, 9, "steps", 5.0) == "starting: 0 of 9 steps"
    assert progress_text("starting", 9, 9, "steps", 5.0) == "starting: 9 of 9 steps"


def test_names_from_outside_do_not_write_lines_of_their_own() -> None:
    log = Log()
    lines = log.lines()
    lines.begin("reading evil\n[  0:00] all is well\x1b[2J", 10)
    log.pass_time(lines, 3)
    assert len(log.printed) == 1
    assert "\n" not in log.printed[0] and "\x1b" not in log.printed[0]


def test_hidden_progress_is_silent() -> None:
    with shown_progress(hidden=True) as hidden:
        assert hidden is SILENT


def test_without_a_terminal_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENT_S", 0.0)
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with shown_progress() as lines:
        lines.begin("reading a.safetensors", 10)
        lines.advance(5)
    assert "reading a.safetensors: 5 B of 10 B" in stderr.getvalue()


def test_on_a_terminal_there_is_a_bar_with_amount_and_time_left() -> None:
    now_s = [0.0]
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with progress.bars(console, lambda: now_s[0]) as bars:
        bars.begin("training [b]baselines[/b]", 960, "steps")
        for _ in range(6):
            now_s[0] += 10
            bars.advance(80)
    shown = screen.getvalue()
    assert "training [b]baselines[/b]" in shown and "480 of 960 steps" in shown
    assert "0:01:00" in shown, "a minute has passed, and as much is left"
