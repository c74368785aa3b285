"""The README's table of speed, from the committed results of each instruction set.

    python benchmarks/speed_table.py           # print it
    python benchmarks/speed_table.py --write   # put it where the README has it

A cell is empty where nothing is committed, and short where a line is newer than the results.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SETS = {"avx2": "AVX2", "avx512": "AVX-512"}
SCRIPTS = ("kernels", "train_step", "generate", "merge_path")
HEAD = ("| times as fast as | AVX2 | AVX-512 | bar |", "|---|---|---|---|")

Lines = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Row:
    """`names`: the lines whose values stand side by side in a cell; `bars`: what they must reach."""

    what: str
    script: str
    names: tuple[str, ...]
    bars: tuple[str, ...]
    form: str = "{:.1f}"


ROWS = (
    Row(
        "SpikingJelly 2.0, snnTorch 1.0, norse 1.1: neurons forward and backward, 8 steps x 4,096 x 512; "
        "or share of memory bandwidth",
        "kernels",
        (*(f"neurons.over_{peer}" for peer in ("spikingjelly", "snntorch", "norse")), "neurons.of_bandwidth"),
        ("8", "10", "10", "or 80 %"),
    ),
    Row(
        "masked dense weights in torch: training step of a layer, 512 x 2,048, 93 % zeros",
        "kernels",
        ("synapses.over_masked",),
        ("4",),
    ),
    Row(
        "masked dense layers and a loop over time in torch: training step of a model of 22.8 M weights",
        "train_step",
        ("one_core.ratio",),
        ("5",),
    ),
    Row(
        "the same model dense in torch: one token, 143 M weights",
        "generate",
        ("batch1.float.over_same",),
        ("5",),
    ),
    Row(
        "a dense network with as many weights as ours has synapses: one token",
        "generate",
        ("batch1.float.over_alive",),
        ("1.5",),
        "{:.2f}",
    ),
    Row(
        "copying memory: reading and folding one delta, top 25 %, top 1/64",
        "merge_path",
        ("fold.top25", "fold.top1_64"),
        ("0.25",),
        "{:.2f}",
    ),
)


def document(script: str, instruction_set: str) -> Mapping[str, Any] | None:
    """What is committed of a script in a set."""
    path = RESULTS / f"{script}.{instruction_set}.json"
    found: Mapping[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return found


def lines(script: str, instruction_set: str) -> Lines:
    """The same as lines by their names, none where nothing is committed."""
    found = document(script, instruction_set)
    return {} if found is None else {line["name"]: line for line in found["results"]}


def table() -> str:
    """As it stands in the README."""
    rows = [*HEAD]
    for row in ROWS:
        cells = (cell(row, lines(row.script, name)) for name in SETS)
        rows.append(f"| {row.what} | {' | '.join(cells)} | {', '.join(row.bars)} |")
    return "\n".join(rows)


def cell(row: Row, found: Lines) -> str:
    return ", ".join(
        (f"{100 * line['value']:.0f} %" if line["unit"] == "of memory bandwidth" else row.form.format(line["value"]))
        for name in row.names
        if (line := found.get(name))
    )


def measured_on() -> str:
    """The processors and dates behind each column."""
    columns = []
    for name, title in SETS.items():
        documents = [found for script in SCRIPTS if (found := document(script, name))]
        where = sorted({f"{each['hardware']['cpu']}, {each['date']}" for each in documents})
        columns.append(f"{title}: {'; '.join(where) if where else 'not measured yet'}")
    return ". ".join(columns) + "."


def written(readme: str) -> str:
    """The README with table and processors as they are now."""
    head = re.escape("\n".join(HEAD))
    readme = re.sub(rf"{head}\n(\|.*\n)*", lambda _: table() + "\n", readme)
    return re.sub(r"^AVX2: .*\. AVX-512: .*\.$", lambda _: measured_on(), readme, flags=re.MULTILINE)


if __name__ == "__main__":
    if "--write" in sys.argv:
        (ROOT / "README.md").write_text(written((ROOT / "README.md").read_text()))
    print(measured_on(), table(), sep="\n\n")
