"""A bar on the terminal for work that goes through files: how much, how fast, how long yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class FileProgress:
    """What `checkpoint.Progress` asks for, shown as one bar per piece of work."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._task: TaskID | None = None

    def begin(self, label: str, num_bytes: int) -> None:
        """Start another bar; the one before it is done."""
        self._task = self._shown.add_task(label, total=num_bytes)

    def advance(self, num_bytes: int) -> None:
        if self._task is not None:
            self._shown.advance(self._task, num_bytes)


@contextmanager
def file_progress(*, hidden: bool) -> Iterator[FileProgress]:
    """Bars on stderr while the block runs; none if hidden or if nobody watches."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as shown:
        yield FileProgress(shown)
