"""The live display: what a table and a line show, and what a log gets."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from spikemesh.cli.demo.live import COMPACT_WIDTH, FULL_WIDTH, LiveDisplay, Pace, Row, plain_line, table
from spikemesh.cli.demo.report import Event
from spikemesh.node import NodeStatistics, VolunteerStatistics

EQUAL, OTHER = "3f9a5b" + "0" * 58, "d41e60" + "0" * 58
HOSTILE = "[red]x[/red]\x1b[2J\u202e<b>"


def statistics(digest: str = EQUAL, *, progress: float = 0.5, loss: float | None = 1.9) -> NodeStatistics:
    return NodeStatistics(
        id="0" * 64,
        run_id="1" * 64,
        digest=digest,
        set_digest=digest,
        num_coordinates=1000,
        num_records=50,
        num_contributions=48,
        num_own=12,
        num_authors=4,
        num_peers=3,
        num_diverged=0,
        num_refused=0,
        num_deltas_fetched=36,
        sent_bytes=3_456_789,
        received_bytes=987_654_321,
        stored_bytes=1,
        peak_rss_bytes=7 * 10**8,
        num_starts=1,
        started_from_snapshot=False,
        num_vouchers=0,
        volunteer=VolunteerStatistics(
            state="training",
            round=int(24 * progress),
            num_rounds=24,
            step=240,
            num_tokens=10**6,
            tokens_per_s=10_432.0,
            loss=loss,
            spike_rate=0.093,
            progress=progress,
        ),
    )


ROWS: list[Row] = [
    ("volunteer-1", statistics(), ""),
    ("volunteer-2", None, "killed"),
    ("volunteer-3", statistics(OTHER), ""),
    ("volunteer-4", statistics(loss=None, progress=0.0), ""),
]


def drawn(rows: list[Row], width: int, events: list[Event] | None = None) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table(rows, 130.0, events or [], left_s={"volunteer-1": 75.0}, width=width))
    return console.export_text()


@pytest.mark.parametrize("width", [COMPACT_WIDTH, FULL_WIDTH, 160])
def test_every_fact_of_a_volunteer_fits_from_80_columns_on(width: int) -> None:
    text = drawn(ROWS, width)
    assert "…" not in text
    row = next(line for line in text.splitlines() if line.startswith("volunteer-1"))
    for fact in ("training", "12/24", "1.900", "10.4k", "9.3 %", "3.46 MB", "988 MB", " 3 ", "3f9a5b", "1:15"):
        assert fact in row
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert ("━" in row) == (width >= FULL_WIDTH)


def test_a_small_terminal_keeps_the_essentials() -> None:
    text = drawn(ROWS, 60)
    assert "…" not in text
    for fact in ("training", "12/24", "1.900", "3f9a5b", "1:15", "killed"):
        assert fact in text
    assert "988 MB" not in text


def test_one_that_is_down_or_has_no_loss_yet_is_shown_as_such() -> None:
    lines = drawn(ROWS, FULL_WIDTH).splitlines()
    assert next(line for line in lines if "volunteer-2" in line).split() == ["volunteer-2", "killed", *["–"] * 9]
    assert "–" in next(line for line in lines if "volunteer-4" in line)
    assert "down" in drawn([("volunteer-2", None, "")], FULL_WIDTH)


def test_equal_digests_look_equal_and_different_ones_do_not() -> None:
    console = Console(width=FULL_WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor", record=True)
    console.print(table(ROWS, 1.0, width=FULL_WIDTH))
    styled = console.export_text(styles=True)
    looks = [part.rsplit("\x1b[", 1)[1] for part in styled.split("3f9a5b")[:-1]]
    other = styled.split("d41e60")[0].rsplit("\x1b[", 1)[1]
    assert looks[0] == looks[1] != other


def test_the_headline_says_when_all_agree() -> None:
    assert "digests equal" not in drawn(ROWS, FULL_WIDTH)
    assert "digests equal" not in drawn([ROWS[0], ROWS[1]], FULL_WIDTH)
    assert "digests equal" in drawn([ROWS[0], ROWS[3]], FULL_WIDTH)


def test_text_from_outside_moves_no_cursor_and_is_no_markup() -> None:
    rows: list[Row] = [(HOSTILE, statistics(HOSTILE), HOSTILE)]
    text = drawn(rows, 160, [Event(t_s=3.0, text=HOSTILE)]) + plain_line(rows, 3.0)
    assert "\x1b" not in text and "\u202e" not in text
    assert "[red]x[/red]" in text


def test_a_line_holds_the_whole_swarm() -> None:
    line = plain_line(ROWS, 130.0, left_s={"volunteer-1": 75.0})
    assert line == (
        "[  2:10] 3 of 4 volunteers · round 12/24 · loss 1.900 · 31.3k tokens/s · received 2.96 GB · 2 digests · "
        "1 min 15 s left"
    )
    assert plain_line([("volunteer-1", None, "")], 0.0) == "[  0:00] 0 of 1 volunteers · received 0 B"


def test_a_log_gets_a_line_every_ten_seconds_each_event_once_and_the_end() -> None:
    file = io.StringIO()
    events = [Event(t_s=0.0, text="4 volunteers started")]
    with LiveDisplay(Console(file=file, width=40)) as display:
        for tenth in range(0, 251, 5):
            if tenth == 120:
                events.append(Event(t_s=12.0, text="volunteer-2 killed"))
            display.update(ROWS, tenth / 10, events)
    lines = file.getvalue().splitlines()
    assert [line[:8] for line in lines] == ["[  0:00]", "[  0:00]", "[  0:10]", "[  0:12]", "[  0:20]", "[  0:25]"]
    assert [line[9:] for line in (lines[0], lines[3])] == ["4 volunteers started", "volunteer-2 killed"]
    assert "\x1b" not in file.getvalue()


def test_a_terminal_gets_the_table_and_its_cursor_back_even_after_ctrl_c() -> None:
    file = io.StringIO()
    console = Console(file=file, width=120, force_terminal=True)
    with pytest.raises(KeyboardInterrupt), LiveDisplay(console) as display:
        display.update(ROWS, 5.0, [])
        raise KeyboardInterrupt
    assert "volunteer-3" in file.getvalue()
    assert file.getvalue().rindex("\x1b[?25h") > file.getvalue().rindex("\x1b[?25l")


def test_time_left_counts_from_where_a_volunteer_was_first_seen() -> None:
    """A resumed run starts half-way: its progress so far says nothing about its pace."""
    pace = Pace()

    def left_at(elapsed_s: float, progress: float) -> dict[str, float]:
        return pace.observe([("volunteer-1", statistics(progress=progress), "")], elapsed_s)

    assert left_at(10.0, 0.5) == {}
    assert left_at(20.0, 0.501) == {}
    assert left_at(60.0, 0.75)["volunteer-1"] == pytest.approx(50.0)
    assert left_at(110.0, 1.0) == {"volunteer-1": 0.0}
