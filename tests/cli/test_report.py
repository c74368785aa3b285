"""The report: it survives its file, holds facts against bars and tells each of them in a line."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import msgspec
import pytest

from spikemesh.cli.demo.report import LossReport, checks, passed, read_report, show_report, summary_lines, write_report
from spikemesh.errors import InvalidData, StoreError
from tests.cli.samples import DIGEST, hostile_report, node, report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    write_report(place, report())
    return place


# The file


def test_round_trip(folder: Path) -> None:
    assert read_report(folder) == report()


def test_the_json_has_the_names_that_programs_read(folder: Path) -> None:
    data = json.loads((folder / "report.json").read_text())
    assert [entry["digest"] for entry in data["nodes"]] == [DIGEST] * 5
    assert (data["loss"]["merged"], data["loss"]["lone"], data["loss"]["joint"]) == (1.751, 1.882, 1.702)
    assert (data["wire"]["bytes_per_coordinate"], data["wire"]["fp32_bytes_per_coordinate"]) == (0.1834, 4.0)
    assert (data["density"], data["train_seconds"], data["peak_rss_bytes"]) == (0.0703, 212.0, 705_000_000)
    assert data["spike_rate"] == {"block0.mix": 0.1453, "block0.hidden": 0.0512}


def test_a_sample_cut_inside_a_character_is_still_written(tmp_path: Path) -> None:
    write_report(tmp_path, report(sample="ab\udcffc", history=[]))
    assert read_report(tmp_path).sample == "ab?c"


def test_no_report_and_a_damaged_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no report"):
        read_report(tmp_path)
    for damaged in (b"{", b'{"spikemesh": 1}', b"\xff"):
        (tmp_path / "report.json").write_bytes(damaged)
        with pytest.raises(InvalidData, match="not a report"):
            read_report(tmp_path)


# The bars


def test_a_good_run_passes() -> None:
    assert passed(report())
    assert all(check.holds for check in checks(report()))


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"digests_equal": False}, "different digests at the end"),
        ({"nodes": [node(1), node(2, digest="00" * 32)]}, "different digests at the end"),
        ({"nodes": []}, "different digests at the end"),
        ({"loss": LossReport(merged=2.0, lone=2.2, joint=1.9, gap_closed=0.7)}, "held-out loss of the merged model"),
        ({"loss": LossReport(merged=1.85, lone=1.9, joint=1.84, gap_closed=0.8)}, "gain over the lone volunteer"),
        ({"loss": LossReport(merged=1.8, lone=1.9, joint=1.7, gap_closed=0.5)}, "share of the gap to joint closed"),
        ({"peak_rss_bytes": 1_500_000_001}, "peak memory of one volunteer"),
        ({"train_seconds": 360.1}, "training time, baselines included"),
    ],
)
def test_each_bar_fails_alone(changed: dict[str, object], name: str) -> None:
    failing = [check.name for check in checks(report(**changed)) if not check.holds]
    assert failing == [name]
    assert not passed(report(**changed))


def test_the_encoded_size_is_information_and_the_transport_decides() -> None:
    wire = report().wire
    dear = report(wire=msgspec.structs.replace(wire, bytes_per_coordinate=0.25))
    assert [check.name for check in checks(dear) if not check.holds] == [
        "encoded bytes per coordinate and contribution"
    ]
    assert passed(dear)
    assert not passed(report(wire=msgspec.structs.replace(wire, transport_bytes_per_coordinate=0.41)))


def test_a_loss_that_is_not_a_number_meets_no_bar_and_still_makes_a_page(tmp_path: Path) -> None:
    bad = report(loss=LossReport(merged=math.nan, lone=math.nan, joint=math.nan, gap_closed=math.nan))
    assert not passed(bad)
    write_report(tmp_path, bad)
    assert "3 of 7 bars not met" in (tmp_path / "report.html").read_text()


# The lines


def test_a_line_for_each_fact() -> None:
    text = "\n".join(summary_lines(report()))
    for fact in (
        "9b" * 32,
        f"volunteer-2   {DIGEST} · killed and restarted",
        f"volunteer-5   {DIGEST} · joined late, from a snapshot, 3 vouching",
        "5 volunteers, all equal · bar: at most 1 ✓",
        "1.751 nats/byte, merged model · bar: below 2.00 ✓",
        "1.882 nats/byte, one volunteer alone; merged is 0.131 below · bar: at least 0.08 ✓",
        "1.702 nats/byte, one run with four times the batch",
        "72.8 % of the way from lone to joint · bar: at least 60 % ✓",
        "0.183 bytes per coordinate and contribution, 21.8 times under fp32 (4)",
        "17.8 times under fp32 · bar: at most 0.40 ✓",
        "7.0 % of the weights",
        "block0.mix     0.145",
        "block0.hidden  0.051",
        "705 MB peak",
        "3 min 32 s training, baselines included · bar: at most 6 min 00 s ✓",
        "8 min 14 s in all",
        "│ def __init__(self):",
    ):
        assert fact in text


def test_a_merged_model_that_is_worse_is_called_worse() -> None:
    worse = report(loss=LossReport(merged=1.95, lone=1.9, joint=1.84, gap_closed=-0.05 / 0.06))
    assert "merged is 0.050 above · bar: at least 0.08 ✗" in "\n".join(summary_lines(worse))


def test_the_lines_move_no_cursor_and_a_bar_that_is_missed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    show_report(Path("runs/demo"), msgspec.structs.replace(hostile_report(), train_seconds=1000.0))
    shown = capsys.readouterr().out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown + "".join(summary_lines(hostile_report())))
    assert "not met: training time, baselines included" in " ".join(shown.split())
    assert "runs/demo/report.html" in shown
