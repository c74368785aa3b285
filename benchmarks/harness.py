"""What every benchmark shares: lines of JSON, bars that hold or do not, and committed results.

    report = Report(__file__, __doc__)
    report.at_most("wire.bytes", 0.23, "bytes per coordinate", bar=0.24, against="fp32: 4")
    sys.exit(report.finish())

Each line is {"name", "value", "unit", "bar", "holds", "against"}; a fact has no bar (null) and holds. A median of pairs
has its "spread" as well, a script that runs per instruction set (`sets`) its "set". With `--commit` the lines go to
benchmarks/results/<script>.json, or <script>.<set>.json, with the command, the date and the hardware.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from spikemesh.cli.hardware import hardware
from spikemesh.cli.progress import shown_lines
from spikemesh.progress import SILENT, Progress

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Spread:
    """The median of several measurements, and the least and the largest of them."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def of_ratios(cls, above: Sequence[float], below: Sequence[float]) -> Spread:
        """Of pairs that were measured in turn; what one side measured more often is left out."""
        return cls.of([a / b for a, b in zip(above, below, strict=False)])


class Report:
    """The results of one script. `arguments` are those after the script's name; `parser` may add the script's own.

    While it is open, stderr says every ten seconds what is measured. `silent` is for who leaves the work to others.
    `instruction_set` and `limits` say what the script and its opponents were limited to, see `sets`.
    """

    def __init__(
        self,
        script: str,
        description: str | None = None,
        *,
        parser: argparse.ArgumentParser | None = None,
        arguments: Sequence[str] | None = None,
        instruction_set: str | None = None,
        limits: Mapping[str, str] | None = None,
        silent: bool = False,
    ) -> None:
        parser = parser or argparse.ArgumentParser(description=description)
        parser.add_argument("--commit", action="store_true", help="write the results to benchmarks/results")
        self._script = Path(script).stem
        self.instruction_set = instruction_set
        self._limits = dict(limits or {})
        self._arguments = list(sys.argv[1:] if arguments is None else arguments)
        self.lines: list[dict[str, object]] = []
        self.arguments = parser.parse_args(self._arguments)
        self._stack = ExitStack()
        self._progress: Progress = SILENT if silent else self._stack.enter_context(shown_lines())
        self.next(f"{self._script}, the first result")

    def next(self, part: str) -> None:
        """What is measured from here on: a line on stderr says so every ten seconds until its result is there."""
        self._progress.begin(f"next: {part}", 0)

    def at_most(self, name: str, value: float, unit: str, *, bar: float, against: str) -> None:
        """A number that must not exceed `bar`."""
        self._add(name, value, unit, bar, value <= bar, against)

    def at_least(
        self, name: str, value: float | Spread, unit: str, *, bar: float | None, against: str, unless: bool = False
    ) -> None:
        """A number that must reach `bar`, where there is one, `unless` another claim holds that `against` names."""
        middle = value.median if isinstance(value, Spread) else value
        self._add(name, value, unit, bar, bar is None or unless or middle >= bar, against)

    def fact(self, name: str, value: float | str | Spread, unit: str, *, against: str) -> None:
        """A number worth knowing that nothing is claimed of."""
        self._add(name, value, unit, None, True, against)

    def finish(self) -> int:
        """Write the results if asked to. The script's exit code: 0 if all bars hold."""
        self._stack.close()
        if self.arguments.commit:
            RESULTS.mkdir(exist_ok=True)
            name = self._script if self.instruction_set is None else f"{self._script}.{self.instruction_set}"
            (RESULTS / f"{name}.json").write_text(json.dumps(self._document(), indent=1) + "\n")
        return 0 if all(line["holds"] for line in self.lines) else 1

    def _add(
        self, name: str, value: float | str | Spread, unit: str, bar: float | None, holds: bool, against: str
    ) -> None:
        middle = value.median if isinstance(value, Spread) else value
        line: dict[str, object] = {"name": name, "value": _rounded(middle), "unit": unit}
        line |= {"bar": bar, "holds": bool(holds), "against": against}
        if isinstance(value, Spread):
            line["spread"] = [_rounded(value.least), _rounded(value.most)]
        if self.instruction_set is not None:
            line["set"] = self.instruction_set
        self.lines.append(line)
        print(json.dumps(line), flush=True)
        self.next(f"{self._script}, what follows {name}")

    def _document(self) -> dict[str, object]:
        return {
            "command": " ".join(("python", f"benchmarks/{self._script}.py", *self._arguments)),
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            **({} if self.instruction_set is None else {"set": self.instruction_set, "limits": self._limits}),
            "hardware": msgspec.to_builtins(hardware()) | {"numpy": importlib.metadata.version("numpy")},
            "results": self.lines,
        }


def _rounded(value: float | str) -> float | str:
    return value if isinstance(value, str) else float(f"{value:.5g}")
