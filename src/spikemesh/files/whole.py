"""Whole files: durable and complete, or as they were before."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from spikemesh.errors import StoreBusy
from spikemesh.files.rim import os_errors

UNFINISHED = ".unfinished"
"""How the name of a file ends until it is complete. After a crash, `remove_unfinished` finds it by this."""

AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of Linux's renameat2."""


def write_file_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put `data` at `path`, durable on return: a reader, or a restart after a crash, sees the old bytes or the new.

    `StoreFull` or `StoreError` leave the old file in place.
    """
    with os_errors("writing", path):
        unfinished = write_unfinished(path, data, mode)
        try:
            unfinished.replace(path)
        except OSError:
            discard(unfinished)
            raise
        sync(path.parent)


def write_unfinished(path: Path, data: bytes, mode: int = 0o644) -> Path:
    """Write and sync `data` beside `path`; returns where. The caller renames it, which makes it a file."""
    unfinished = unfinished_path(path)
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            _write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        discard(unfinished)
        raise
    return unfinished


def unfinished_path(path: Path) -> Path:
    """A name beside `path` that nobody else uses, and that says what it is."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED}")


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def exchange(one: Path, other: Path) -> bool:
    """Give each the other's name in one step, whatever they are. False where the system or the file system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), ctypes.c_uint(RENAME_EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV):
        return False
    raise OSError(code, os.strerror(code), str(other))


def discard(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def sync(path: Path) -> None:
    """Make the bytes of a file durable, or the names in a folder: what was created, renamed or removed there."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Create `folder` and its missing parents, each durable before anything is put inside."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    sync(folder.parent)


def remove_unfinished(folder: Path) -> None:
    """Remove what a crash left behind. Only for the one process that holds the folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(UNFINISHED) and entry.is_file(follow_symlinks=False):
                Path(entry.path).unlink(missing_ok=True)


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold `<folder>/lock` against every other opener, in this process or another; `StoreBusy` if one holds it.

    The kernel lets go of it when the process ends, however it ends: there are no stale locks.
    """
    path = folder / "lock"
    with os_errors("locking", path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with os_errors("locking", path):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                raise StoreBusy(
                    f"Another spikemesh process is using {folder}. Wait for it or stop it, or choose another folder."
                ) from error
        yield
    finally:
        os.close(fd)
