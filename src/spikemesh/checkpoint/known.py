"""The files that this machine has seen, by content: a merge of merged files finds their leaves here.

A small SQLite file in the user's cache folder. It is a convenience: it may be deleted at any time, a file counts only
as long as its size and time are those that were seen, and what is found is hashed again when it is merged.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from spikemesh.checkpoint.source import Checkpoint

CACHE_VARIABLE = "SPIKEMESH_CACHE"


def cache_folder() -> Path:
    """`$SPIKEMESH_CACHE`, or `spikemesh` in the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spikemesh"


def fingerprint(files: tuple[Path, ...]) -> str:
    """Names, sizes and times of the files: what tells, without reading them, that nothing has been written there."""
    stats = [(path.name, path.stat()) for path in files]
    return json.dumps([[name, stat.st_size, stat.st_mtime_ns, stat.st_ino] for name, stat in stats])


class KnownFiles:
    """Which content lies where. Every method does nothing, or finds nothing, where the cache cannot be used."""

    def __init__(self, folder: Path | None = None) -> None:
        self._path = (folder or cache_folder()) / "checkpoints.sqlite"

    def remember(self, checkpoint: Checkpoint, content: str) -> None:
        """That `checkpoint`, as its files are now, has this content."""
        row = (str(checkpoint.path.resolve()), self._files(checkpoint), fingerprint(checkpoint.files), content)
        with self._open() as database:
            if database is not None:
                database.execute("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?)", row)

    def content_of(self, checkpoint: Checkpoint) -> str | None:
        """The content of these files if they have been seen and not been touched since."""
        row = None
        with self._open() as database:
            if database is not None:
                row = database.execute(
                    "SELECT fingerprint, content FROM known WHERE path = ?", (str(checkpoint.path.resolve()),)
                ).fetchone()
        return row[1] if row is not None and row[0] == fingerprint(checkpoint.files) else None

    def find(self, content: str) -> Path | None:
        """A path that had this content and has not been touched since."""
        rows: list[tuple[str, str, str]] = []
        with self._open() as database:
            if database is not None:
                rows = database.execute(
                    "SELECT path, files, fingerprint FROM known WHERE content = ?", (content,)
                ).fetchall()
        for path, files, seen in rows:
            with contextlib.suppress(OSError):
                if fingerprint(tuple(Path(file) for file in json.loads(files))) == seen:
                    return Path(path)
        return None

    @staticmethod
    def _files(checkpoint: Checkpoint) -> str:
        return json.dumps([str(file.resolve()) for file in checkpoint.files])

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection | None]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self._path, timeout=5.0)
            database.execute(
                "CREATE TABLE IF NOT EXISTS known"
                " (path TEXT PRIMARY KEY, files TEXT NOT NULL, fingerprint TEXT NOT NULL, content TEXT NOT NULL)"
            )
        except (OSError, sqlite3.Error):
            yield None
            return
        with contextlib.closing(database), contextlib.suppress(sqlite3.Error), database:
            yield database
