"""What the parts share: where files go, how often things are done, and a report that can go on where it stopped."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Report
from merging.meter import Run, tell
from merging.peers import Peers


@dataclass(frozen=True, kw_only=True)
class Bench:
    """`rounds`: how often each thing is timed; medians are reported."""

    place: Path
    rounds: int
    peers: Peers

    @contextmanager
    def files(self, name: str, needed_bytes: int) -> Iterator[Path]:
        """A folder for a part's files, of which there will be `needed_bytes` at once. It goes when the part is done,
        and stays for the next try when the part fails."""
        folder = self.place / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        free = shutil.disk_usage(folder).free
        if free + there < needed_bytes:
            raise OSError(f"{name} needs {needed_bytes / 1e9:.0f} GB of free space, {folder} has {free / 1e9:.0f} GB")
        yield folder
        shutil.rmtree(folder)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class KeptReport:
    """A report that also notes what each part says, so that a part that was done need not be done again."""

    def __init__(self, report: Report, folder: Path) -> None:
        self._report, self._folder = report, folder
        self._notes: list[tuple[str, list[Any], dict[str, Any]]] = []
        self._prefix = ""

    def under(self, prefix: str) -> KeptReport:
        """The same report, where each name begins with a prefix."""
        report = copy.copy(self)
        report._prefix = f"{prefix}."
        return report

    def at_most(self, *words: Any, **named: Any) -> None:
        self._note("at_most", words, named)

    def at_least(self, *words: Any, **named: Any) -> None:
        self._note("at_least", words, named)

    def fact(self, *words: Any, **named: Any) -> None:
        self._note("fact", words, named)

    def costs(self, name: str, run: Run, against: str) -> None:
        """Three facts."""
        if run.error is not None:
            self.fact(f"{name}.error", run.error, "", against=against)
            return
        self.fact(f"{name}.wall", run.wall_s, "s", against=against)
        self.fact(f"{name}.cpu", run.cpu_s, "CPU-s", against=against)
        self.fact(f"{name}.peak", run.peak_bytes, "bytes, private", against=against)

    def part(self, name: str, measure: Callable[[], None], *, resume: bool) -> None:
        """Measure a part, or say again what was noted of it."""
        notes = self._folder / f"{name}.json"
        if resume and notes.exists():
            tell(f"{name}: as measured before")
            for method, words, named in json.loads(notes.read_text()):
                getattr(self._report, method)(*words, **named)
            return
        tell(name)
        self._notes = []
        notes.unlink(missing_ok=True)
        measure()
        self._folder.mkdir(parents=True, exist_ok=True)
        notes.write_text(json.dumps(self._notes, default=float))

    def _note(self, method: str, words: tuple[Any, ...], named: dict[str, Any]) -> None:
        words = (self._prefix + words[0], *words[1:])
        getattr(self._report, method)(*words, **named)
        self._notes.append((method, list(words), named))
