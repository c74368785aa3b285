"""Where the operating system's and SQLite's errors become ours: what happened, where, what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from spikemesh.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull

FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
DENIED = frozenset((errno.EROFS, errno.EACCES, errno.EPERM))
PROBE_BYTES = 64 * 1024

REBUILD = (
    "Move the folder away and join again: the records come back from any peer, and a new identity cannot "
    "reuse a sequence number that the old one has signed."
)
"""What to do about a damaged index. It holds the sequence guard, so keeping the key alone could equivocate."""


@contextlib.contextmanager
def os_errors(doing: str, path: Path) -> Iterator[None]:
    """Raise `StoreFull` or `StoreError` for an `OSError` of the block; `doing` is a verb in -ing."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, doing, path) from error


@contextlib.contextmanager
def sqlite_errors(doing: str, path: Path) -> Iterator[None]:
    """The same for a `sqlite3.Error`, which may also mean `StoreCorrupt` or `StoreBusy`."""
    try:
        yield
    except sqlite3.Error as error:
        raise from_sqlite_error(error, doing, path) from error
    except UnicodeDecodeError as error:  # Python, over a message of SQLite that quotes a damaged schema
        raise corrupt(path, "its schema is not text") from error


def from_os_error(error: OSError, doing: str, path: Path) -> StoreError:
    reason = error.strerror or str(error)
    if error.errno in FULL:
        return StoreFull(
            f"No space left while {doing} {path} ({reason}). Free some, or raise the quota or file size limit, and "
            "run the same command again: nothing that was acknowledged is lost."
        )
    if error.errno in DENIED:
        return StoreError(f"Not allowed while {doing} {path} ({reason}). Make the folder writable, or choose another.")
    return StoreError(f"The disk failed while {doing} {path} ({reason}). Check the path and the disk, then try again.")


def from_sqlite_error(error: sqlite3.Error, doing: str, path: Path) -> StoreError:
    extended = getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR
    code = extended & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return from_os_error(OSError(errno.ENOSPC, str(error)), doing, path)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or extended == sqlite3.SQLITE_IOERR_CORRUPTFS:
        return corrupt(path, str(error))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy(f"Another program holds {path} ({error}). Close it and try again.")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return from_os_error(OSError(errno.EACCES, str(error)), doing, path)
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and (cause := _probe(path)) is not None:
        return from_os_error(cause, doing, path)
    return StoreError(f"SQLite failed while {doing} {path} ({error}). Check the path and the disk, then try again.")


def corrupt(path: Path, seen: str) -> StoreCorrupt:
    return StoreCorrupt(f"{path} is damaged ({seen}). {REBUILD}")


def _probe(database: Path) -> OSError | None:
    """SQLite hides errno for all but ENOSPC, so write where it would have written and see what the disk says."""
    probe = database.with_name(database.name + ".probe")
    log = database.with_name(database.name + "-wal")
    try:
        offset = log.stat().st_size if log.exists() else 0
        fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            end = offset + PROBE_BYTES
            while offset < end:  # a first write may be cut short where the second one gets the error
                offset += os.pwrite(fd, bytes(end - offset), offset)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as cause:
        return cause
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return None
