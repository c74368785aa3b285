"""What every benchmark shares: lines of JSON, bars that hold or do not, and committed results.

    report = Report(__file__, __doc__)
    report.at_most("wire.bytes", 0.23, "bytes per coordinate", bar=0.24, against="fp32: 4")
    sys.exit(report.finish())

Each line is {"name", "value", "unit", "bar", "holds", "against"}; a fact has no bar (null) and holds. With `--commit`
the lines go to benchmarks/results/<script>.json with the command, the date and the hardware.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from spikemesh.cli.hardware import hardware

RESULTS = Path(__file__).parent / "results"


class Report:
    """The results of one script. `arguments` are those after the script's name; `parser` may add the script's own."""

    def __init__(
        self,
        script: str,
        description: str | None = None,
        *,
        parser: argparse.ArgumentParser | None = None,
        arguments: Sequence[str] | None = None,
    ) -> None:
        parser = parser or argparse.ArgumentParser(description=description)
        parser.add_argument("--commit", action="store_true", help="write the results to benchmarks/results")
        self._script = Path(script).stem
        self._arguments = list(sys.argv[1:] if arguments is None else arguments)
        self._lines: list[dict[str, object]] = []
        self.arguments = parser.parse_args(self._arguments)

    def at_most(self, name: str, value: float, unit: str, *, bar: float, against: str) -> None:
        """A number that must not exceed `bar`."""
        self._add(name, value, unit, bar, value <= bar, against)

    def at_least(self, name: str, value: float, unit: str, *, bar: float, against: str) -> None:
        """A number that must reach `bar`."""
        self._add(name, value, unit, bar, value >= bar, against)

    def fact(self, name: str, value: float | str, unit: str, *, against: str) -> None:
        """A number worth knowing that nothing is claimed of."""
        self._add(name, value, unit, None, True, against)

    def finish(self) -> int:
        """Write the results if asked to. The script's exit code: 0 if all bars hold."""
        if self.arguments.commit:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{self._script}.json").write_text(json.dumps(self._document(), indent=1) + "\n")
        return 0 if all(line["holds"] for line in self._lines) else 1

    def _add(self, name: str, value: float | str, unit: str, bar: float | None, holds: bool, against: str) -> None:
        value = value if isinstance(value, str) else float(f"{value:.5g}")
        line: dict[str, object] = {"name": name, "value": value, "unit": unit}
        line |= {"bar": bar, "holds": bool(holds), "against": against}
        self._lines.append(line)
        print(json.dumps(line), flush=True)

    def _document(self) -> dict[str, object]:
        return {
            "command": " ".join(("python", f"benchmarks/{self._script}.py", *self._arguments)),
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "hardware": msgspec.to_builtins(hardware()) | {"numpy": importlib.metadata.version("numpy")},
            "results": self._lines,
        }
