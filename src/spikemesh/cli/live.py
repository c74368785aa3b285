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

from spikemesh.cli.readable import (
    NO_VALUE,
    bytes_text,
    count_text,
    decimal_text,
    digest_colours,
    duration_text,
    one_line,
    percent_text,
)
from spikemesh.cli.report_facts import Event
from spikemesh.node.statistics import NodeStatistics, VolunteerStatistics

Row: TypeAlias = tuple[str, NodeStatistics | None, str]
"""A volunteer's name, what was last heard from it, and a note that stands in place of its state if not empty."""

LINE_PERIOD_S = 10.0
NUM_EVENTS = 4
SHORT_DIGEST = 8
FULL_WIDTH, MIDDLE_WIDTH = 104, 84
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

    On a terminal the last table and the events stay when it ends; elsewhere there is one line every ten seconds and
    one for each event, so that a log stays short.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._pace = Pace()
        self._live: Live | None = None
        self._num_events = 0
        self._next_line_s = 0.0

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

    def update(self, rows: Sequence[Row], elapsed_s: float, events: Sequence[Event] = ()) -> None:
        """Show this now. `rows` and `events` hold everything so far, not what is new."""
        left_s = self._pace.observe(rows, elapsed_s)
        if self._live is not None:
            shown = table(rows, elapsed_s, events, left_s=left_s, width=self._console.width)
            self._live.update(shown, refresh=True)
            return
        for event in events[self._num_events :]:
            self._line(event_line(event))
        self._num_events = len(events)
        if elapsed_s >= self._next_line_s:
            self._line(plain_line(rows, elapsed_s, left_s=left_s))
            self._next_line_s = elapsed_s + LINE_PERIOD_S

    def _line(self, text: str) -> None:
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
    return f"{_clock(elapsed_s)} {' · '.join(parts)}"


def event_line(event: Event) -> str:
    return f"{_clock(event.t_s)} {one_line(event.text, 120)}"


def _clock(seconds: float) -> str:
    whole = max(0, int(seconds))
    return f"[{whole // 60:3}:{whole % 60:02}]"


def _round_text(volunteer: VolunteerStatistics) -> str:
    return f"round {volunteer.round}/{volunteer.num_rounds}"


def table(
    rows: Sequence[Row],
    elapsed_s: float,
    events: Sequence[Event] = (),
    *,
    left_s: Mapping[str, float] | None = None,
    width: int = FULL_WIDTH,
) -> RenderableType:
    """Everything in a table of at most `width` columns: a narrow one leaves out what matters least."""
    colours = digest_colours(statistics.digest for _, statistics, _ in rows if statistics is not None)
    shown = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for head, least_width, right in COLUMNS:
        if width >= least_width:
            shown.add_column(head, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        cells = _cells(row, colours, (left_s or {}).get(row[0]), width)
        shown.add_row(*(cell for cell, (_, least_width, _) in zip(cells, COLUMNS, strict=True) if width >= least_width))
    lines = [Text(event_line(event), style="dim", overflow="ellipsis", no_wrap=True) for event in events[-NUM_EVENTS:]]
    return Group(_headline(rows, elapsed_s, left_s or {}), shown, *lines)


COLUMNS = (
    ("volunteer", 0, False),
    ("state", 0, False),
    ("round", 0, False),
    ("loss", 0, True),
    ("tokens/s", MIDDLE_WIDTH, True),
    ("spikes", FULL_WIDTH, True),
    ("sent", MIDDLE_WIDTH, True),
    ("received", MIDDLE_WIDTH, True),
    ("peers", FULL_WIDTH, True),
    ("digest", 0, False),
    ("left", FULL_WIDTH, True),
)
"""Head, width of the terminal from which on it is shown, and whether it holds numbers."""


def _headline(rows: Sequence[Row], elapsed_s: float, left_s: Mapping[str, float]) -> Text:
    digests = {statistics.digest for _, statistics, _ in rows if statistics is not None}
    line = Text(f"{duration_text(elapsed_s)}", style="bold")
    left = max(left_s.values(), default=None)
    if left:
        line.append(f", about {duration_text(left)} left", style="")
    if len(digests) == 1 and len(rows) > 1:
        line.append("  ✓ all digests equal", style="green")
    return line


def _cells(row: Row, colours: Mapping[str, int], left_s: float | None, width: int) -> list[Text]:
    name, seen, note = row
    volunteer = seen.volunteer if seen else None
    state = note or (volunteer.state if volunteer else "gossip" if seen else "down")
    return [
        Text(one_line(name, 14 if width < MIDDLE_WIDTH else 20), style="bold"),
        Text(one_line(state, 12), style=STATE_STYLES.get(state, "yellow")),
        _progress(volunteer, 6 if width < FULL_WIDTH else 10),
        Text(decimal_text(volunteer.loss if volunteer else None)),
        Text(count_text(volunteer.tokens_per_s) if volunteer else NO_VALUE),
        Text(percent_text(volunteer.spike_rate if volunteer else None)),
        Text(bytes_text(seen.sent_bytes) if seen else NO_VALUE),
        Text(bytes_text(seen.received_bytes) if seen else NO_VALUE),
        Text(str(seen.num_peers) if seen else NO_VALUE),
        _digest(seen, colours),
        Text(NO_VALUE if left_s is None else duration_text(left_s)),
    ]


def _progress(volunteer: VolunteerStatistics | None, width: int) -> Text:
    if volunteer is None:
        return Text(NO_VALUE)
    filled = round(width * min(1.0, max(0.0, volunteer.progress)))
    bar = Text("━" * filled, style="green").append("━" * (width - filled), style="bright_black")
    return bar.append(f" {volunteer.round}/{volunteer.num_rounds}", style="default")


def _digest(seen: NodeStatistics | None, colours: Mapping[str, int]) -> Text:
    if seen is None:
        return Text(NO_VALUE)
    return Text(f" {one_line(seen.digest[:SHORT_DIGEST], SHORT_DIGEST)} ", style=DIGEST_STYLES[colours[seen.digest]])
