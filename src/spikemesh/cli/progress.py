"""A bar on the terminal for work that goes through files: how much, how fast, how long yet."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.progress as bars

    from spikemesh.checkpoint import Progress


class FileProgress:
    """What `checkpoint.Progress` asks for, shown as one bar per piece of work."""

    def __init__(self, shown: bars.Progress) -> None:
        self._shown = shown
        self._task: bars.TaskID | None = None

    def begin(self, label: str, num_bytes: int) -> None:
        """Start another bar; the one before it is done."""
        self._task = self._shown.add_task(label, total=num_bytes)

    def advance(self, num_bytes: int) -> None:
        if self._task is not None:
            self._shown.advance(self._task, num_bytes)


@contextmanager
def file_progress(*, hidden: bool) -> Iterator[Progress]:
    """Bars on stderr while the block runs; none if hidden or if nobody watches."""
    if hidden or not sys.stderr.isatty():
        from spikemesh.checkpoint import SILENT

        yield SILENT
        return
    import rich.progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        yield FileProgress(shown)
