"""The files that this machine has seen, by their hashes: a merge of merged files finds their leaves here.

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

from spikemesh.checkpoint.content import CONTENT, Kind
from spikemesh.checkpoint.source import Checkpoint, SeenFile

CACHE_VARIABLE = "SPIKEMESH_CACHE"
BUSY_S = 2.0
"""How long to wait for another process that writes here."""


def cache_folder() -> Path | None:
    """`$SPIKEMESH_CACHE`, or `spikemesh` in the user's cache folder; None for a user without a home."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "spikemesh"
    try:
        return Path.home() / ".cache" / "spikemesh"
    except RuntimeError:
        return None


class KnownFiles:
    """Which content lies where. Every method does nothing, or finds nothing, where the cache cannot be used."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or cache_folder()

    def remember(self, checkpoint: Checkpoint, value: str, kind: Kind = CONTENT) -> None:
        """That `checkpoint`, as its files were when they were opened, has this hash."""
        if not checkpoint.files:  # it lies in memory
            return
        with self._open() as database:
            if database is not None:
                row = (_key(checkpoint.path), kind.name, _text(checkpoint.files), value)
                database.execute("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?)", row)

    def hash_of(self, checkpoint: Checkpoint, kind: Kind = CONTENT) -> str | None:
        """The hash of these files if they have been seen and not been touched since."""
        row = None
        if not checkpoint.files:
            return None
        with self._open() as database:
            if database is not None:
                row = database.execute(
                    "SELECT files, hash FROM hashes WHERE path = ? AND kind = ?", (_key(checkpoint.path), kind.name)
                ).fetchone()
        return row[1] if row is not None and row[0] == _text(checkpoint.files) else None

    def find(self, content: str) -> Path | None:
        """A path that had this content and has not been touched since."""
        rows: list[tuple[bytes, str]] = []
        with self._open() as database:
            if database is not None:
                rows = database.execute(
                    "SELECT path, files FROM hashes WHERE hash = ? AND kind = ? ORDER BY path",
                    (content, CONTENT.name),
                ).fetchall()
        return next((Path(os.fsdecode(path)) for path, files in rows if _are_untouched(files)), None)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection | None]:
        database = self._connect()
        if database is None:
            yield None
            return
        with contextlib.closing(database), contextlib.suppress(sqlite3.Error), database:
            yield database

    def _connect(self) -> sqlite3.Connection | None:
        if self._folder is None:
            return None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self._folder / "checkpoints.sqlite", timeout=BUSY_S)
        except (OSError, sqlite3.Error):
            return None
        try:
            database.execute(
                "CREATE TABLE IF NOT EXISTS hashes (path BLOB NOT NULL, kind TEXT NOT NULL, files TEXT NOT NULL, "
                "hash TEXT NOT NULL, PRIMARY KEY (path, kind))"
            )
        except sqlite3.Error:
            database.close()
            return None
        return database


def _key(path: Path) -> bytes:
    """File names need not be text."""
    return os.fsencode(path.resolve())


def _text(files: tuple[SeenFile, ...]) -> str:
    return json.dumps([[str(f.path.resolve()), f.size, f.mtime_ns, f.ctime_ns, f.inode] for f in files])


def _are_untouched(text: str) -> bool:
    try:
        return all(SeenFile(Path(path), *stamp).is_untouched for path, *stamp in json.loads(text))
    except (ValueError, TypeError):  # not what we wrote
        return False
