"""How long a demo is made, from the seconds of one step, and what it says of that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from spikemesh.cli.demo.baselines import STALLED_S, watch
from spikemesh.cli.demo.length import FEWEST_ROUNDS, LONGEST_S, Work, expected_s, fit
from spikemesh.cli.demo.report import (
    Length,
    Report,
    checks,
    passed,
    read_report,
    show_report,
    summary_lines,
    write_report,
)
from spikemesh.cli.demo.wording import length_text
from spikemesh.errors import SpikemeshError
from tests.cli.samples import report

WORK = Work(num_rounds=48, steps_per_round=20, num_cores=2)


def shortened() -> Report:
    made = report(length=fit(0.442, WORK), num_rounds=fit(0.442, WORK).num_rounds)
    return msgspec.structs.replace(made, loss=msgspec.structs.replace(made.loss, merged=2.4, gap_closed=None))


# The decision


def test_a_fast_machine_trains_all_rounds() -> None:
    length = fit(0.050, WORK)
    assert (length.num_rounds, length.shortened) == (48, False)
    assert length.expected_s == length.whole_s < LONGEST_S


def test_the_estimate_is_what_was_seen() -> None:
    """45 min 28 s on two AVX2 cores where a step took 442 ms, installation and start included."""
    assert expected_s(0.442, 48, WORK) == pytest.approx(42 * 60, rel=0.1)


def test_a_slow_machine_trains_as_many_rounds_as_there_is_time_for() -> None:
    length = fit(0.442, WORK)
    assert length.shortened and FEWEST_ROUNDS < length.num_rounds < 48
    assert length.expected_s <= LONGEST_S < expected_s(0.442, length.num_rounds + 1, WORK)


def test_all_rounds_are_trained_when_told_so() -> None:
    length = fit(0.442, WORK, full=True)
    assert length.num_rounds == 48 and not length.shortened and length.expected_s > LONGEST_S


def test_a_very_slow_machine_still_has_a_middle_in_which_one_is_killed() -> None:
    assert fit(60.0, WORK).num_rounds == FEWEST_ROUNDS
    assert fit(60.0, Work(num_rounds=2, steps_per_round=20, num_cores=2)).num_rounds == 2


@pytest.mark.parametrize("num_cores", [1, 2, 4, 64])
def test_more_cores_never_mean_fewer_rounds(num_cores: int) -> None:
    slower, faster = Work(48, 20, num_cores), Work(48, 20, num_cores + 1)
    assert fit(0.5, slower).num_rounds <= fit(0.5, faster).num_rounds
    assert fit(0.5, faster).num_rounds >= fit(0.6, faster).num_rounds


# The words


def test_it_says_beforehand_how_long_it_will_take() -> None:
    assert length_text(fit(0.050, WORK)) == (
        "A training step takes 50 ms here: about 5 min 22 s for all 48 rounds and baselines."
    )
    words = length_text(fit(0.442, WORK))
    assert "all 48 rounds and baselines would take about 42 min" in words
    assert "trains 22 rounds, in about 19 min" in words and "--full" in words


def test_a_shortened_run_quotes_no_figure_of_a_whole_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = shortened()
    write_report(tmp_path, made)
    show_report(tmp_path, made)
    page, lines = (tmp_path / "report.html").read_text(), " ".join(capsys.readouterr().out.split())
    for text in (page, lines, " ".join(summary_lines(made))):
        assert "Shortened to 22 of 48 rounds" in text
        assert "gap closed" not in text and "of the way from lone to joint" not in text
        assert "below 2.00" not in text and "6 min 00 s" not in text, "bars of a whole run"
    assert '<dl class="tiles">' not in page and "percent of the gap" not in page
    assert "gap to the joint run" not in page and "needed:" not in page
    assert read_report(tmp_path).loss.gap_closed is None and read_report(tmp_path).length == made.length


def test_a_shortened_run_is_held_against_what_holds_at_any_length() -> None:
    made = shortened()
    assert passed(made) and len(checks(made)) == len(checks(report())) - 4
    assert not passed(msgspec.structs.replace(made, digests_equal=False))


def test_a_whole_run_says_nothing_of_its_length(tmp_path: Path) -> None:
    whole = report(length=fit(0.050, WORK))
    write_report(tmp_path, whole)
    assert "Shortened" not in (tmp_path / "report.html").read_text()
    assert summary_lines(whole) == summary_lines(report())


def test_a_report_from_before_lengths_were_measured_can_be_read(tmp_path: Path) -> None:
    write_report(tmp_path, report())
    old = msgspec.json.decode((tmp_path / "report.json").read_bytes())
    del old["length"]
    (tmp_path / "report.json").write_bytes(msgspec.json.encode(old))
    assert read_report(tmp_path) == report()


# The baselines


class Noted:
    """Progress that keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def begin(self, label: str, total: int, unit: str = "bytes") -> None:
        self.told.append((label, total, unit))

    def advance(self, amount: int) -> None:
        self.told.append(amount)


def test_baselines_tell_the_steps_of_the_slower_one() -> None:
    progress, steps, waits = Noted(), iter([0, 3, 3, 10]), iter([False, False, False, False, True])
    watch(progress, lambda: next(steps), 10, lambda: next(waits), clock=lambda: 0.0)
    assert progress.told == [
        ("starting the baselines", 0, "bytes"),
        ("training the baselines", 10, "steps"),
        3,
        7,
        ("evaluating the baselines", 0, "bytes"),
    ]


def test_a_baseline_that_stands_still_is_given_up() -> None:
    def clock() -> Iterator[float]:
        now_s = 0.0
        while True:
            yield now_s
            now_s += STALLED_S / 3

    times = clock()
    with pytest.raises(SpikemeshError, match="after 5 of 10 steps"):
        watch(Noted(), lambda: 5, 10, lambda: False, clock=lambda: next(times))


def test_length_has_units_that_programs_read() -> None:
    assert msgspec.to_builtins(fit(0.442, WORK)).keys() == {
        "step_s",
        "num_rounds",
        "whole_rounds",
        "expected_s",
        "whole_s",
    }
    assert isinstance(fit(0.1, WORK), Length)
