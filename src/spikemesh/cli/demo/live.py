"""The demo while it runs: a live table on a terminal, one plain line now and then in a log.

`table` and `plain_line` are pure functions of what was polled; `LiveDisplay` is the terminal around them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TypeAlias

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from spikemesh.cli.demo.facts import Event
from spikemesh.cli.readable import (
    NO_VALUE,
    bytes_text,
    clock_text,
    count_text,
    decimal_text,
    digest_colours,
    duration_text,
    minutes_text,
    one_line,
    percent_text,
)
from spikemesh.node.statistics import NodeStatistics, VolunteerStatistics

Row: TypeAlias = tuple[str, NodeStatistics | None, str]
"""A volunteer's name, what was last heard from it, and a note that stands in place of its state if not empty."""

LINE_PERIOD_S = 10.0
NUM_EVENTS = 4
SHORT_DIGEST = 6
FULL_WIDTH, COMPACT_WIDTH = 106, 80
ROUND_BAR, HEADLINE_BAR = 8, 20
MIN_PROGRESS = 0.02
"""Progress from which on the time left is estimated at all."""

DIGEST_STYLES = (
    "black on bright_green",
    "black on bright_yellow",
    "black on bright_cyan",
    "black on bright_magenta",
    "white on blue",
    "white on red",
    "black on green",
    "black on yellow",
    "black on cyan",
    "black on magenta",
    "black on white",
    "white on bright_black",
)
STATE_STYLES = {"training": "green", "done": "bold green", "starting": "yellow", "down": "bold red"}


class Pace:
    """Time left of each volunteer, from how far it has come since it was first seen."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[float, float]] = {}

    def observe(self, rows: Sequence[Row], elapsed_s: float) -> dict[str, float]:
        """Seconds left by name, of those about whom something can be said."""
        left_s = {}
        for name, seen, _ in rows:
            if seen is None or seen.volunteer is None:
                continue
            progress = seen.volunteer.progress
            start_s, start = self._first.setdefault(name, (elapsed_s, progress))
            if progress >= 1.0:
                left_s[name] = 0.0
            elif progress - start >= MIN_PROGRESS:
                left_s[name] = (elapsed_s - start_s) * (1.0 - progress) / (progress - start)
        return left_s


class LiveDisplay:
    """Shows what `update` is given for as long as the `with` block lasts.

    On a terminal the last table stays when it ends. Elsewhere there is one line every ten seconds, one for each event
    and one at the end, so that a log stays short.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._pace = Pace()
        self._live: Live | None = None
        self._num_events = 0
        self._next_line_s = 0.0
        self._last_line = self._printed_line = ""

    def __enter__(self) -> LiveDisplay:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self._last_line != self._printed_line:
            self._print(self._last_line)

    def update(self, rows: Sequence[Row], elapsed_s: float, events: Sequence[Event] = ()) -> None:
        """Show this now. `rows` and `events` hold everything so far, not what is new."""
        left_s = self._pace.observe(rows, elapsed_s)
        if self._live is not None:
            shown = table(rows, elapsed_s, events, left_s=left_s, width=self._console.width)
            self._live.update(shown, refresh=True)
            return
        for event in events[self._num_events :]:
            self._print(event_line(event))
        self._num_events = len(events)
        self._last_line = plain_line(rows, elapsed_s, left_s=left_s)
        if elapsed_s >= self._next_line_s:
            self._print(self._last_line)
            self._printed_line = self._last_line
            self._next_line_s = elapsed_s + LINE_PERIOD_S

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()


def plain_line(rows: Sequence[Row], elapsed_s: float, *, left_s: Mapping[str, float] | None = None) -> str:
    """The whole swarm in one line, for a log."""
    seen = [statistics for _, statistics, _ in rows if statistics is not None]
    training = [statistics.volunteer for statistics in seen if statistics.volunteer is not None]
    losses = [volunteer.loss for volunteer in training if volunteer.loss is not None]
    num_digests = len({statistics.digest for statistics in seen})
    left = max((left_s or {}).values(), default=None)
    parts = [
        f"{len(seen)} of {len(rows)} volunteers",
        *([_round_text(max(training, key=lambda volunteer: volunteer.round))] if training else []),
        *([f"loss {decimal_text(sum(losses) / len(losses))}"] if losses else []),
        *([f"{count_text(sum(volunteer.tokens_per_s for volunteer in training))} tokens/s"] if training else []),
        f"received {bytes_text(sum(statistics.received_bytes for statistics in seen))}",
        *(["digests equal" if num_digests == 1 else f"{num_digests} digests"] if seen else []),
        *([f"{duration_text(left)} left"] if left else []),
    ]
    return f"{clock_text(elapsed_s)} {' · '.join(parts)}"


def event_line(event: Event) -> str:
    return f"{clock_text(event.t_s)} {one_line(event.text, 120)}"


def _round_text(volunteer: VolunteerStatistics) -> str:
    return f"round {volunteer.round}/{volunteer.num_rounds}"


COLUMNS = (
    ("volunteer", "volunteer", False, False),
    ("state", "state", False, False),
    ("round", "round", False, False),
    ("loss", "loss", True, False),
    ("tokens/s", "tok/s", True, True),
    ("spikes", "spikes", True, True),
    ("sent", "sent", True, True),
    ("received", "recv", True, True),
    ("peers", "peers", True, True),
    ("digest", "digest", False, False),
    ("left", "left", True, False),
)
"""Head, head where room is short, whether it holds numbers, and whether a small terminal does without it."""


def table(
    rows: Sequence[Row],
    elapsed_s: float,
    events: Sequence[Event] = (),
    *,
    left_s: Mapping[str, float] | None = None,
    width: int = FULL_WIDTH,
) -> RenderableType:
    """Everything in a table of at most `width` columns: with little room it shortens, then leaves out what it can."""
    full, small = width >= FULL_WIDTH, width < COMPACT_WIDTH
    colours = digest_colours(statistics.digest for _, statistics, _ in rows if statistics is not None)
    shown = Table(box=None, padding=(0, 2 if full else 1, 0, 0), pad_edge=False, header_style="dim")
    for long_head, short_head, right, optional in COLUMNS:
        if not (small and optional):
            shown.add_column(long_head if full else short_head, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        cells = _cells(row, colours, (left_s or {}).get(row[0]), full)
        shown.add_row(*(cell for cell, column in zip(cells, COLUMNS, strict=True) if not (small and column[3])))
    lines = [Text(event_line(event), style="dim", overflow="ellipsis", no_wrap=True) for event in events[-NUM_EVENTS:]]
    return Group(_headline(rows, elapsed_s, left_s or {}), shown, *lines)


def _headline(rows: Sequence[Row], elapsed_s: float, left_s: Mapping[str, float]) -> Text:
    seen = [statistics for _, statistics, _ in rows if statistics is not None]
    progress = max((s.volunteer.progress for s in seen if s.volunteer is not None), default=0.0)
    line = Text(no_wrap=True, overflow="ellipsis").append_text(_bar(progress, HEADLINE_BAR))
    line.append(f" {percent_text(progress, 0)}  ").append(duration_text(elapsed_s), style="bold")
    if left := max(left_s.values(), default=0.0):
        line.append(f", about {duration_text(left)} left")
    if len(seen) == len(rows) > 1 and len({statistics.digest for statistics in seen}) == 1:
        line.append("  ✓ digests equal", style="green")
    return line


def _cells(row: Row, colours: Mapping[str, int], left_s: float | None, full: bool) -> list[Text]:
    name, seen, note = row
    volunteer = seen.volunteer if seen else None
    state = note or (volunteer.state if volunteer else "gossip" if seen else "down")
    return [
        Text(one_line(name, 18 if full else 11), style="bold"),
        Text(one_line(state, 12 if full else 8), style=STATE_STYLES.get(state, "yellow")),
        _round(volunteer, ROUND_BAR if full else 0),
        Text(decimal_text(volunteer.loss if volunteer else None)),
        Text(count_text(volunteer.tokens_per_s) if volunteer else NO_VALUE),
        Text(percent_text(volunteer.spike_rate if volunteer else None)),
        Text(bytes_text(seen.sent_bytes) if seen else NO_VALUE),
        Text(bytes_text(seen.received_bytes) if seen else NO_VALUE),
        Text(str(seen.num_peers) if seen else NO_VALUE),
        _digest(seen, colours),
        Text(NO_VALUE if left_s is None else minutes_text(left_s)),
    ]


def _round(volunteer: VolunteerStatistics | None, width: int) -> Text:
    if volunteer is None:
        return Text(NO_VALUE)
    bar = _bar(volunteer.progress, width).append(" " if width else "")
    return bar.append(f"{volunteer.round}/{volunteer.num_rounds}")


def _bar(progress: float, width: int) -> Text:
    filled = round(width * min(1.0, max(0.0, progress)))
    return Text().append("━" * filled, style="green").append("─" * (width - filled), style="bright_black")


def _digest(seen: NodeStatistics | None, colours: Mapping[str, int]) -> Text:
    if seen is None:
        return Text(NO_VALUE)
    return Text(one_line(seen.digest[:SHORT_DIGEST], SHORT_DIGEST), style=DIGEST_STYLES[colours[seen.digest]])
