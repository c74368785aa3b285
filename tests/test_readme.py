"""What the README shows is true: its Python runs, its files exist, its verbs and targets are there."""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path

import pytest

from benchmarks import speed_table
from spikemesh.cli import build_app

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
    verbs = {command.callback.__name__ for command in build_app().registered_commands if command.callback}
    shown = set(re.findall(r"^spikemesh ([a-z]+)", README, re.MULTILINE))
    assert shown <= verbs and {"init", "join", "generate", "status"} <= shown
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z-]+)`", README):
        assert f"\n{target}:" in makefile


def test_it_is_short_enough_to_read() -> None:
    assert len(README.splitlines()) <= 200


ROWS = (
    ("| held-out loss of the merged model, nats per byte | {} | {} | below 2.0 |", "loss.merged", "{:.3f}"),
    ("| the same of one volunteer alone, for the same steps | {} | {} | |", "loss.lone", "{:.3f}"),
    ("| the same of one joint run with four times the batch | {} | {} | |", "loss.joint", "{:.3f}"),
    ("| share of the gap from lone to joint closed | {} | {} | at least 60 % |", "gap_closed", "{:.0%}"),
    ("| different digests among five volunteers at the end | {} | {} | 1 |", "different_digests", "{:.0f}"),
    (
        "| bytes received per coordinate and contribution, everything counted (fp32: 4) | {} | {} | at most 0.40 |",
        "wire.transport",
        "{:.3f}",
    ),
    ("| peak memory of one volunteer, MB | {} | {} | at most 1,500 |", "peak_rss", "{:.0f}"),
    ("| training, swarm and both baselines, seconds | {} | {} | at most 360 |", "train_seconds", "{:.0f}"),
)


def test_its_numbers_are_those_of_the_committed_benchmarks() -> None:
    quality = _results("swarm_quality")
    for row, name, form in ROWS:
        values = [quality[f"seed{seed}.{name}"] / (1e6 if name == "peak_rss" else 1) for seed in (0, 1)]
        shown = row.format(*(form.format(value).replace("%", " %") for value in values))
        assert shown in README, shown
    wire = _results("wire")
    for name, bar in (("wire.top25", "0.24"), ("wire.top1_64", "0.024")):
        assert f"{wire[name]:.4f} bytes per coordinate" in README and bar in README


MERGE_ROWS = (
    ("| `spikemesh merge`, seconds | {} | {} | |", "ours.wall", "{:.2f}"),
    ("| times as fast as crdt-merge 0.11.0, weight average | {} | {} | 5 |", "faster_than.crdt_merge", "{:.1f}"),
    ("| times as fast as crdt-merge 0.11.0, `.crdt_merge` | {} | {} | 5 |", "faster_than.crdt_merge_crdt", "{:.1f}"),
    ("| times as fast as mergekit 0.1.5, linear | {} | {} | 5 |", "faster_than.mergekit_linear", "{:.1f}"),
    (
        "| times as fast as mergekit 0.1.5, `ties` with an all-zero base | {} | {} | 10 |",
        "faster_than.mergekit_ties",
        "{:.1f}",
    ),
    ("| peak private memory, MB (mergekit linear: 714 and 3,314) | {} | {} | |", "ours.peak", "{:.0f}"),
)


def test_its_numbers_of_merging_are_those_of_the_committed_benchmark() -> None:
    merging = _results("merge_checkpoints")
    for row, name, form in MERGE_ROWS:
        values = [merging[f"side.{size}.{name}"] / (1e6 if name == "ours.peak" else 1) for size in ("400MB", "3GB")]
        shown = row.format(*map(form.format, values))
        assert shown in README, shown
    peaks = [f"{merging[f'side.{size}.mergekit_linear.peak'] / 1e6:,.0f}" for size in ("400MB", "3GB")]
    assert f"mergekit linear: {peaks[0]} and {peaks[1]}" in README
    text = " ".join(README.split())
    assert f"take {merging['shape.ours.wall']:.1f} s, {merging['shape.times_cat_and_cp']:.2f} times" in text
    assert f"and {merging['shape.ours.peak_memory'] / 1e6:.0f} MB (bar 1,000)" in text
    assert f"with {merging['shape.ours.cores']:.2f} cores busy" in text
    laws = ("order", "repeat", "copy", "grouping")
    for peer in ("crdt_merge", "crdt_merge_crdt", "mergekit_linear", "mergekit_ties"):
        kept = [merging.get(f"laws.{peer}.{law}.different_values") == 0 for law in laws]
        assert not all(kept), peer
    assert all(merging[f"laws.spikemesh.{law}.different_files"] == 0 for law in laws)
    assert merging["laws.spikemesh.dilution"] == 0 and round(merging["laws.mergekit_linear.dilution"], 1) == 0.5


def test_its_numbers_of_speed_are_those_of_the_committed_benchmarks() -> None:
    assert f"\n{speed_table.measured_on()}\n\n{speed_table.table()}\n\n" in README, (
        "run benchmarks/speed_table.py --write"
    )
    committed = [_by_name(lines) for lines in _measured("train_step")]
    text = " ".join(README.split())
    assert f"stay within {max(step['loss.apart'] for step in committed):.1e} (bar 1e-4)" in text
    assert f"take {100 * max(step['memory.share'] for step in committed):.1f} % of dense (bar 12 %)" in text
    tokens = [_by_name(lines) for lines in _measured("generate") if "demo.loss.int4" in lines]
    cost = max(token["demo.loss.int4"] - token["demo.loss.float"] for token in tokens)
    assert f"4-bit weights cost {cost:.3f} nats per byte" in text


@pytest.mark.parametrize("script", speed_table.SCRIPTS)
def test_committed_speeds_hold_and_say_where_they_are_from(script: str) -> None:
    assert all(line["holds"] for lines in _measured(script) for line in lines.values())
    for path in (ROOT / "benchmarks" / "results").glob(f"{script}.*json"):
        document = json.loads(path.read_text())
        assert path.name == f"{script}.{document['set']}.json"
        assert document["hardware"]["cpu"] and document["date"] and f"{script}.py" in document["command"]


@pytest.mark.parametrize("row", speed_table.ROWS, ids=lambda row: row.names[0])
def test_bars_of_speed_in_the_table_are_no_less_than_those_that_are_committed(row: speed_table.Row) -> None:
    for name in speed_table.SETS:
        for at, line in enumerate(map(speed_table.lines(row.script, name).get, row.names)):
            if line is not None and line["bar"] is not None:
                assert float(row.bars[min(at, len(row.bars) - 1)]) >= line["bar"]


def _measured(script: str) -> list[speed_table.Lines]:
    """The committed lines of a script, of every set that there are some of."""
    return [lines for name in speed_table.SETS if (lines := speed_table.lines(script, name))]


def _by_name(lines: speed_table.Lines) -> dict[str, float]:
    return {name: line["value"] for name, line in lines.items()}


def test_its_numbers_of_swarms_are_those_of_the_committed_benchmarks() -> None:
    scale, unequal, equal, newcomer = map(_results, ("swarm_scale", "heterogeneous", "all_equal", "newcomer"))
    assert f"until 99 % of them hold a record | {scale['nodes10000.periods_to_99']:.2f} | 19.9 |" in README
    repeated, growth = scale["nodes10000.repeated"], scale["growth.control_busy"]
    assert f"against 100 nodes | {repeated:.2f}, {growth:.2f} | 3, 1.5 |" in README
    losses = ", ".join(f"{unequal[f'{policy}.557s']:.3f}" for policy in ("ours", "drop", "wait"))
    assert f"the late are dropped, all wait | {losses} | |" in README
    killed, quiet, num_bytes = (
        ", ".join(f"{equal[f'{peer}.{name}'] / unit:{form}}" for peer in ("ours", "hivemind"))
        for name, unit, form in (
            ("killed.seconds", 1, ".1f"),
            ("undisturbed.seconds", 1, ".1f"),
            ("undisturbed.bytes", 1e6, ",.0f"),
        )
    )
    assert f"ours, hivemind 1.1.12; undisturbed; MB sent | {killed}; {quiet}; {num_bytes} | |" in README
    whole, interrupted, seconds = (newcomer[name] for name in ("newcomer.bytes", "killed.bytes", "newcomer.seconds"))
    assert f"killed on the way; seconds | {whole:.2f}; {interrupted:.2f}; {seconds:.0f} | 1.1; 1.1; |" in README


def _results(script: str) -> dict[str, float]:
    lines = json.loads((ROOT / "benchmarks" / "results" / f"{script}.json").read_text())["results"]
    assert all(line["holds"] for line in lines)
    return {line["name"]: line["value"] for line in lines}
