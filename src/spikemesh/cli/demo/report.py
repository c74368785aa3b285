"""The report of a finished run: `report.json` for programs, `report.html` for people, one printed line per fact."""

from __future__ import annotations

import textwrap
from pathlib import Path

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from spikemesh.cli.demo.facts import (
    ENCODED,
    GAIN,
    GAP,
    MEMORY,
    MERGED,
    SAME,
    TIME,
    TRANSPORT,
    Check,
    Event,
    HeldOut,
    HistoryNode,
    HistoryPoint,
    Length,
    LossReport,
    NodeReport,
    Report,
    WireReport,
    checks,
    passed,
)
from spikemesh.cli.demo.wording import beside, check_text, gain_text, ratio_text, shortened_text
from spikemesh.cli.hardware import Hardware
from spikemesh.cli.readable import bytes_text, decimal_text, duration_text, one_line, percent_text, printable
from spikemesh.errors import InvalidData, StoreError
from spikemesh.files import write_file_atomic

__all__ = [
    "Check",
    "Event",
    "Hardware",
    "HeldOut",
    "HistoryNode",
    "HistoryPoint",
    "Length",
    "LossReport",
    "NodeReport",
    "Report",
    "WireReport",
    "check_text",
    "checks",
    "passed",
    "read_report",
    "show_report",
    "summary",
    "summary_lines",
    "write_report",
]

JSON_NAME = "report.json"
PAGE_NAME = "report.html"
LABEL_WIDTH = 16
SAMPLE_WIDTH = 100
MAX_SAMPLE_LINES = 16
SAMPLE_EDGE = "│ "


def write_report(folder: Path, report: Report) -> tuple[Path, Path]:
    """Write `report.json` and then `report.html` into `folder`, each whole or not at all; returns both paths.

    `StoreFull` or `StoreError` when the disk refuses. A sample with half characters is stored with them replaced.
    """
    report = msgspec.structs.replace(report, sample=_whole(report.sample), command=_whole(report.command))
    data = msgspec.json.format(msgspec.json.encode(report), indent=1)
    write_file_atomic(folder / JSON_NAME, data + b"\n")
    from spikemesh.cli.demo.page import page  # matplotlib takes a second to import

    write_file_atomic(folder / PAGE_NAME, page(report).encode("utf-8", "replace"))
    return folder / JSON_NAME, folder / PAGE_NAME


def read_report(folder: Path) -> Report:
    """The report in `folder`. `StoreError` when there is none, `InvalidData` when it is not one of this version."""
    path = folder / JSON_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"There is no report at {path} ({error.strerror}). Run the demo to its end first.") from error
    try:
        return msgspec.json.decode(data, type=Report)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidData(
            f"{path} is not a report that this version can read ({error}). Run the demo again."
        ) from error


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def summary_lines(report: Report) -> list[str]:
    """The report as plain lines, one for each fact, the bars beside the facts they belong to."""
    return [f"{label:<{LABEL_WIDTH}}{text}" for label, text in _facts(report)]


def show_report(folder: Path, report: Report, console: Console | None = None) -> None:
    """Print the summary, whether the bars hold, and where the report in `folder` is."""
    shown = console or Console()
    shown.print(summary(report))
    failed = [check.name for check in checks(report) if check.decides and not check.holds]
    shown.print(f"{'bars':<{LABEL_WIDTH}}" + (f"not met: {', '.join(failed)}" if failed else "all met"), markup=False)
    shown.print(f"{'report':<{LABEL_WIDTH}}{folder / PAGE_NAME}", markup=False, highlight=False, soft_wrap=True)


def summary(report: Report) -> RenderableType:
    """`summary_lines` in colour, folded beside their labels."""
    table = Table.grid(padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in _facts(report):
        table.add_row(Text(label), _styled(text))
    return table


def _styled(text: str) -> Text:
    line = Text(text)
    if text.startswith(SAMPLE_EDGE):
        return line
    line.highlight_regex(r"bar: [^✓✗]*", "dim")
    line.highlight_words(["✓"], "bold green")
    line.highlight_words(["✗"], "bold red")
    return line


def _facts(report: Report) -> list[tuple[str, str]]:
    """(label, text) by line. A continued fact has an empty label."""
    return [
        ("run", f"{one_line(report.run_id, 64)} · seed {report.seed} · {report.num_coordinates:,} alive coordinates"),
        *([("length", shortened_text(report.length))] if report.length and report.shortened else []),
        *_digest_facts(report),
        *_loss_facts(report),
        *_wire_facts(report),
        ("density", f"{percent_text(report.density)} of the weights behind masks may be non-zero"),
        *_spike_facts(report),
        *_cost_facts(report),
        *_sample_facts(report.sample),
    ]


def _digest_facts(report: Report) -> list[tuple[str, str]]:
    same = next(check for check in checks(report) if check.name == SAME)
    number = len({node.digest for node in report.nodes})
    words = "all equal" if same.holds else f"{number} different ones"
    lines = [("digests", f"{len(report.nodes)} volunteers, {words} · {check_text(same)}")]
    for node in report.nodes:
        notes = [
            *(["killed and restarted"] if node.killed else []),
            *(["joined late"] if node.late else []),
            *([f"from a snapshot, {node.num_vouchers} vouching"] if node.started_from_snapshot else []),
        ]
        name = one_line(node.name, LABEL_WIDTH - 3)
        lines.append((f"  {name}", one_line(node.digest, 64) + (f" · {', '.join(notes)}" if notes else "")))
    return lines


def _loss_facts(report: Report) -> list[tuple[str, str]]:
    loss = report.loss
    gap = "" if loss.gap_closed is None else f"{percent_text(loss.gap_closed)} of the way from lone to joint"
    scale = [
        *([f"unigram {loss.unigram:.3f}"] if loss.unigram is not None else []),
        *([f"bigram {loss.bigram:.3f}"] if loss.bigram is not None else []),
    ]
    return [
        ("held-out loss", f"{loss.merged:.3f} nats/byte, merged model{beside(report, MERGED)}"),
        (
            "  lone",
            f"{loss.lone:.3f} nats/byte, one volunteer alone; merged is {gain_text(loss.lone - loss.merged)}"
            f"{beside(report, GAIN)}",
        ),
        ("  joint", f"{loss.joint:.3f} nats/byte, one run with four times the batch"),
        *([("  gap closed", f"{gap}{beside(report, GAP)}")] if gap else []),
        *([("  for scale", ", ".join(scale))] if scale else []),
    ]


def _wire_facts(report: Report) -> list[tuple[str, str]]:
    wire = report.wire
    fp32 = wire.fp32_bytes_per_coordinate
    return [
        (
            "wire",
            f"{wire.bytes_per_coordinate:.3f} bytes per coordinate and contribution, "
            f"{ratio_text(fp32, wire.bytes_per_coordinate)} under fp32 ({fp32:g}){beside(report, ENCODED)}",
        ),
        (
            "  transport",
            f"{wire.transport_bytes_per_coordinate:.3f} bytes with everything counted, per receiver, "
            f"{ratio_text(fp32, wire.transport_bytes_per_coordinate)} under fp32{beside(report, TRANSPORT)}",
        ),
        ("  in all", f"{bytes_text(wire.total_bytes)} received, {wire.num_contributions} contributions"),
    ]


def _spike_facts(report: Report) -> list[tuple[str, str]]:
    """Rates per neuron and step, one line for each layer."""
    rates = [(one_line(name, 32), decimal_text(rate)) for name, rate in report.spike_rate.items()]
    width = max((len(name) for name, _ in rates), default=0)
    lines = [f"{name:<{width}}  {rate} spikes per neuron and step" for name, rate in rates]
    return [("spike rate" if number == 0 else "", line) for number, line in enumerate(lines)]


def _cost_facts(report: Report) -> list[tuple[str, str]]:
    return [
        ("memory", f"{bytes_text(report.peak_rss_bytes)} peak in the largest volunteer{beside(report, MEMORY)}"),
        ("time", f"{duration_text(report.train_seconds)} training, baselines included{beside(report, TIME)}"),
        (
            "",
            f"{duration_text(report.swarm_seconds)} the swarm from start to end, "
            f"{duration_text(report.baseline_seconds)} both baselines, {duration_text(report.wall_seconds)} in all",
        ),
    ]


def _sample_facts(sample: str) -> list[tuple[str, str]]:
    lines: list[str] = []
    for line in printable(sample).strip("\n").expandtabs(4).split("\n"):
        lines += textwrap.wrap(line, SAMPLE_WIDTH, drop_whitespace=False, replace_whitespace=False) or [""]
    cut = [*lines[:MAX_SAMPLE_LINES], "…"] if len(lines) > MAX_SAMPLE_LINES else lines
    return [("text sample" if number == 0 else "", f"{SAMPLE_EDGE}{line}") for number, line in enumerate(cut)]
