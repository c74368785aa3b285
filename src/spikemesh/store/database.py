"""One SQLite file, one connection, one lock: transactions for any thread of the process that holds the folder."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from spikemesh.errors import StoreError
from spikemesh.files.rim import corrupt, os_errors, sqlite_errors
from spikemesh.files.whole import sync

FORMAT = 1
"""`user_version` of the file. A reader refuses every other number."""

SCHEMA = """
CREATE TABLE record (
    position INTEGER PRIMARY KEY,  -- order of arrival
    id BLOB NOT NULL UNIQUE,
    author BLOB NOT NULL,
    seq INTEGER NOT NULL,
    wire BLOB NOT NULL,
    seal BLOB NOT NULL             -- over the columns before it, as in every table
);
CREATE TABLE chunk (
    number INTEGER PRIMARY KEY,
    hash BLOB NOT NULL,            -- before data: read without touching the 512 KiB behind it
    data BLOB NOT NULL
);
CREATE TABLE folded (              -- at most one row: what the chunks stand for
    only INTEGER PRIMARY KEY CHECK (only = 1),
    digest BLOB NOT NULL,          -- BLAKE3 over the hashes of all chunks
    ids BLOB NOT NULL,             -- 32 bytes each
    seal BLOB NOT NULL
);
CREATE TABLE value (
    key BLOB PRIMARY KEY,
    value BLOB NOT NULL,
    seal BLOB NOT NULL
);
"""


class Database:
    """`<folder>/node.sqlite`. Raises only errors of our tree, and `ValueError` once closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._open = True
        log = path.with_name(path.name + "-wal")
        with os_errors("opening", path):
            if log.exists():
                sync(log)  # SQLite counts what a killed process wrote there as committed, synced or not
        with sqlite_errors("opening", path):
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        connection = self._connection
        connection.text_factory = bytes  # damage may turn a BLOB into TEXT: its seal is to find that, not a decoder
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # so WAL needs no shared memory file
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, FORMAT):
            raise StoreError(
                f"{self.path} has format {version}, this spikemesh reads format {FORMAT}. Install the version that "
                "wrote it, or join in a new folder."
            )
        problem = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if problem != b"ok":
            raise corrupt(self.path, problem.decode(errors="replace"))
        if version == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
        if _schema(connection) != _schema_as_written():
            raise corrupt(self.path, "its tables are not those that were created")

    @contextlib.contextmanager
    def transaction(self, doing: str) -> Iterator[sqlite3.Connection]:
        """All of the block or nothing; durable when the block is left. An error inside leaves everything as it was."""
        with self._use(doing) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                    connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self, doing: str) -> Iterator[sqlite3.Connection]:
        """One consistent view for the length of the block, which must not be left open: it holds the lock."""
        with self._use(doing) as connection:
            yield connection

    @contextlib.contextmanager
    def _use(self, doing: str) -> Iterator[sqlite3.Connection]:
        with self._lock, sqlite_errors(doing, self.path):
            if not self._open:
                raise ValueError(f"the store {self.path.parent} is closed")
            yield self._connection

    def close(self) -> None:
        with self._lock, sqlite_errors("closing", self.path):
            self._open = False
            self._connection.close()

    def check(self, what: str, seal: object, *columns: object) -> None:
        """Raise `StoreCorrupt` unless `seal` is that of the columns."""
        if seal != make_seal(*columns):
            raise corrupt(self.path, f"{what} is not what was written")


def _schema(connection: sqlite3.Connection) -> list[tuple[bytes, bytes, bytes]]:
    return connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()


def _schema_as_written() -> list[tuple[bytes, bytes, bytes]]:
    """A changed letter in a CREATE TABLE can make SQLite read another column; no check of its own sees that."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.text_factory = bytes
        connection.executescript(SCHEMA)
        return _schema(connection)


def make_seal(*columns: object) -> bytes:
    """BLAKE3 over the columns of a row, each with its type and length."""
    state = blake3()
    for column in columns:
        data = column if isinstance(column, bytes) else repr(column).encode()
        state.update(f"{type(column).__name__} {len(data)} ".encode())
        state.update(data)
    return state.digest()
