"""A blob that is written piece by piece, when it is too large to be made in memory first."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from spikemesh.files.rim import os_errors
from spikemesh.files.whole import discard, unfinished_path

READ_BYTES = 1 << 20


class BlobWriter:
    """The pieces of one blob: `write` them in any order; what nobody writes is zeros."""

    def __init__(self, path: Path, fd: int, num_bytes: int) -> None:
        self._path, self._fd, self._num_bytes = path, fd, num_bytes
        self.digest = b""
        """The blob's hash, once it is kept."""

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Put `data` at `offset`. `StoreFull` if the disk is; `ValueError` beyond the size that was said."""
        rest = memoryview(data).cast("B")
        if offset < 0 or offset + len(rest) > self._num_bytes:
            raise ValueError(f"expected bytes in 0..{self._num_bytes}, got {len(rest)} from {offset} on")
        with os_errors("writing", self._path):
            while rest:
                written = os.pwrite(self._fd, rest, offset)
                rest, offset = rest[written:], offset + written

    def hashed(self) -> bytes:
        """The hash of what has been written, read back: pieces do not come in order."""
        digest, offset = blake3(), 0
        with os_errors("reading", self._path):
            while piece := os.pread(self._fd, READ_BYTES, offset):
                digest.update(piece)
                offset += len(piece)
        return digest.digest()


@contextlib.contextmanager
def unfinished_blob(beside: Path, num_bytes: int) -> Iterator[tuple[BlobWriter, Path]]:
    """A writer, and where its file lies, durable when the block ends; removed if the block raises."""
    path = unfinished_path(beside)
    with os_errors("writing", path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            with os_errors("writing", path):
                os.ftruncate(fd, num_bytes)
            yield BlobWriter(path, fd, num_bytes), path
            with os_errors("writing", path):
                os.fsync(fd)
        finally:
            os.close(fd)
    except BaseException:
        discard(path)
        raise
