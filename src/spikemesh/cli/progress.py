"""Work that takes long, shown while it runs: bars on a terminal, a plain line now and then in a log. Both on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from spikemesh.cli.readable import bytes_text, clock_text, count_text, duration_text, one_line
from spikemesh.progress import SILENT, Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Clock: TypeAlias = Callable[[], float]

SILENT_S = 3.0
"""Work that is over by then needs no words."""

LINE_PERIOD_S = 10.0
TICK_S = 0.5


class Lines:
    """`Progress` as lines: the first after three seconds, then one every ten, whether or not the work gets on.

    `clock` is in seconds; `tick` prints what is due, and is to be called often. Both it and `advance` are thread-safe.
    """

    def __init__(self, write: Callable[[str], None], clock: Clock = time.monotonic) -> None:
        self._write, self._clock, self._lock = write, clock, threading.Lock()
        self._start_s = self._label_start_s = clock()
        self._next_s = self._start_s + SILENT_S
        self._label, self._total, self._done, self._unit = "", 0, 0, ""

    def begin(self, label: str, total: int, unit: str = "bytes") -> None:
        """Other work from here on; what came before is done."""
        self.tick()
        with self._lock:
            self._label, self._total, self._done, self._unit = one_line(label), total, 0, unit
            self._label_start_s = self._clock()

    def advance(self, amount: int) -> None:
        with self._lock:
            self._done += amount
        self.tick()

    def tick(self) -> None:
        with self._lock:
            now_s = self._clock()
            if self._label and now_s >= self._next_s:
                self._next_s = now_s + LINE_PERIOD_S
                spent_s = now_s - self._label_start_s
                text = progress_text(self._label, self._done, self._total, self._unit, spent_s)
                self._write(f"{clock_text(now_s - self._start_s)} {text}")


def progress_text(label: str, done: int, total: int, unit: str, spent_s: float) -> str:
    """`calibrating: 3 of 12 layers, about 27 s left`. Without the time where nothing is done yet."""
    amount = amount_text(done, total, unit)
    left_s = spent_s * (total - done) / done if 0 < done < total else None
    return f"{label}{f': {amount}' if amount else ''}" + (f", about {duration_text(left_s)} left" if left_s else "")


def amount_text(done: int, total: int, unit: str) -> str:
    """`1.20 GB of 3.40 GB`, `3 of 12 layers`; nothing where nobody knows how much there is."""
    if not total:
        return ""
    if unit == "bytes":
        return f"{bytes_text(done)} of {bytes_text(total)}"
    if total < 10_000:
        return f"{done} of {total} {unit}"
    return f"{count_text(done)} of {count_text(total)} {unit}"


class Bars:
    """`Progress` as a bar for the work at hand."""

    def __init__(self, shown: RichProgress) -> None:
        self._shown = shown
        self._task: TaskID | None = None

    def begin(self, label: str, total: int, unit: str = "bytes") -> None:
        """Start another bar in place of the one before, which is done."""
        if self._task is not None:
            self._shown.remove_task(self._task)
        self._task = self._shown.add_task(one_line(label), total=total or None, unit=unit)

    def advance(self, amount: int) -> None:
        if self._task is not None:
            self._shown.advance(self._task, amount)


@contextmanager
def shown_progress(*, hidden: bool = False) -> Iterator[Progress]:
    """Bars or lines while the block runs, or nothing if `hidden`."""
    if hidden:
        yield SILENT
    elif sys.stderr.isatty():
        from rich.console import Console

        with bars(Console(stderr=True)) as shown:
            yield shown
    else:
        with shown_lines() as lines:
            yield lines


@contextmanager
def shown_lines() -> Iterator[Lines]:
    """Lines on stderr while the block runs, whoever reads them."""
    lines = Lines(lambda line: print(line, file=sys.stderr, flush=True))
    with _ticking(lines):
        yield lines


@contextmanager
def bars(console: Console, clock: Clock = time.monotonic) -> Iterator[Progress]:
    """Bars on `console` while the block runs; nothing of them is left when it ends."""
    import rich.progress as rich_bars
    from rich.table import Column
    from rich.text import Text

    class Amount(rich_bars.ProgressColumn):
        def render(self, task: rich_bars.Task) -> Text:
            return Text(amount_text(int(task.completed), int(task.total or 0), task.fields["unit"]))

    columns = (
        rich_bars.TextColumn("{task.description}", markup=False),
        rich_bars.BarColumn(bar_width=20),
        Amount(table_column=Column(no_wrap=True, min_width=27)),
        rich_bars.TimeElapsedColumn(table_column=Column(min_width=7)),
        rich_bars.TextColumn("left"),
        rich_bars.TimeRemainingColumn(table_column=Column(min_width=7)),
    )
    redirect = sys.stdout.isatty()  # what a command prints into a pipe goes there and not to the terminal
    shown = rich_bars.Progress(*columns, console=console, transient=True, redirect_stdout=redirect, get_time=clock)
    with shown:
        yield Bars(shown)


@contextmanager
def _ticking(lines: Lines) -> Iterator[None]:
    """Lines come on time even when the work between two of them takes minutes."""
    over = threading.Event()

    def tick() -> None:
        while not over.wait(TICK_S):
            lines.tick()

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield
    finally:
        over.set()
        ticker.join()
