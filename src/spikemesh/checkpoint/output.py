"""Writing the result: a safetensors file, or a folder with shards and companions; whole, or not at all.

Everything is written under a name that ends in `.unfinished` and renamed at the end. A result that fits into memory
with room to spare goes through the page cache, as with `cp`: who loads it next finds it there, and the system writes
it to the disk soon, or before it replaces another one. A larger one would push everything else out of memory and then
be waited for: its whole pages go to the disk directly, where the file system lets them, and are durable before the
rename.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from spikemesh.checkpoint.companions import Companion
from spikemesh.checkpoint.naming import DEFAULT_STEM, file_names, index_name
from spikemesh.checkpoint.place import check_replaced, is_file_name, is_there
from spikemesh.checkpoint.safetensors_file import open_safetensors
from spikemesh.checkpoint.source import TensorInfo
from spikemesh.checkpoint.windows import PAGE_BYTES, Bytes
from spikemesh.errors import CheckpointError, InvalidData, StoreError
from spikemesh.files.container import Entry, pack_header
from spikemesh.files.rim import FULL, os_errors
from spikemesh.files.whole import UNFINISHED, exchange, sync

CACHED_SHARE = 0.25
"""Of the available memory: up to this a result goes through the page cache."""


class OutputFile:
    """One file being written. If `direct`, whole pages whose address and offset are aligned pass by the page cache."""

    def __init__(self, path: Path, size: int, *, direct: bool) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            _reserve(self._fd, size)
        except BaseException:
            os.close(self._fd)
            raise
        # The system lets one thread at a time write into a cached file, and the others spin. Here they sleep.
        self._turn = threading.Lock()
        self._direct_fd: int | None = None
        self._retired: int | None = None
        if not direct:
            return
        with contextlib.suppress(OSError, AttributeError):  # not on every system, not on every file system
            self._direct_fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)

    def write(self, offset: int, data: Bytes) -> None:
        """Put `data` at `offset`, from any thread."""
        first = -offset % PAGE_BYTES
        last = len(data) - (offset + len(data)) % PAGE_BYTES
        aligned = (data.ctypes.data + first) % PAGE_BYTES == 0
        direct_fd = self._direct_fd
        if direct_fd is None or not aligned or last <= first:
            with self._turn:
                _write_all(self._fd, offset, data)
            return
        _write_all(self._fd, offset, data[:first])
        self._write_pages(direct_fd, offset + first, data[first:last])
        _write_all(self._fd, offset + last, data[last:])

    def _write_pages(self, fd: int, offset: int, pages: Bytes) -> None:
        try:
            _write_all(fd, offset, pages)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._direct_fd = None  # wants another alignment; closed with the rest
            self._retired = fd
            _write_all(self._fd, offset, pages)

    def sync(self) -> None:
        """Make everything written durable."""
        os.fsync(self._fd)

    def close(self) -> None:
        for fd in (self._fd, self._direct_fd, self._retired):
            if fd is not None:
                os.close(fd)


def _reserve(fd: int, size: int) -> None:
    """Give an empty file its size and, where the file system can, its blocks: writing them takes a third less then."""
    if (allocate := getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)) is not None and size:
        # Not os.posix_fallocate: where the file system cannot, that writes the whole file.
        if allocate(fd, 0, ctypes.c_int64(0), ctypes.c_int64(size)) == 0:
            return
        if ctypes.get_errno() in FULL:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.ftruncate(fd, size)


def _available_bytes() -> int:
    """Memory that could be used without pushing out what is in use; 0 where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0


def _write_all(fd: int, offset: int, data: Bytes) -> None:
    rest = data.data
    while len(rest):
        count = os.pwrite(fd, rest, offset)
        rest, offset = rest[count:], offset + count


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes go."""

    file: OutputFile
    offset: int


class Output:
    """The files of one result, open for writing. `write` from any thread, then `finish`; or `discard`."""

    def __init__(
        self,
        out: Path,
        tensors: Sequence[TensorInfo],
        placeholder: Mapping[str, str],
        *,
        shard_bytes: int | None = None,
        stem: str = DEFAULT_STEM,
        companions: Mapping[str, Companion] | None = None,
        force: bool = False,
    ) -> None:
        """`placeholder` is metadata of exactly the size that `finish` will bring; tensors lie in the order given.

        `out` is a file if it ends in .safetensors, else a folder: only that can have shards, named after `stem`, or
        companions. Those are copied at once.
        """
        self.out = out
        self._force = force
        self._is_file = is_file_name(out)
        self._companions = {} if self._is_file or companions is None else companions
        self._stem = stem
        groups = _shards(tensors, shard_bytes)
        names = file_names(stem, len(groups))
        self.num_bytes = sum(tensor.size_bytes for tensor in tensors)
        self._direct = self.num_bytes > CACHED_SHARE * _available_bytes()
        self._temporary = out.with_name(f"{out.name}.{secrets.token_hex(4)}{UNFINISHED}")
        self._aside = self._temporary.with_suffix(".old" + UNFINISHED)
        self._files: list[tuple[OutputFile, list[Entry]]] = []
        self._index = {tensor.name: name for name, group in zip(names, groups, strict=True) for tensor in group}
        self._places: dict[str, Place] = {}
        try:
            with os_errors("writing", self._temporary):
                if not self._is_file:
                    self._temporary.mkdir()
                    self._copy_companions()
                for name, group in zip(names, groups, strict=True):
                    self._create(self._temporary if self._is_file else self._temporary / name, group, placeholder)
            self._brings = {*names, *self._companions, index_name(stem)}
            check_replaced(out, self._brings)
        except BaseException:
            self.discard()
            raise

    def _create(self, path: Path, group: Sequence[TensorInfo], placeholder: Mapping[str, str]) -> None:
        entries: list[Entry] = [(t.name, t.element.name, t.shape, t.size_bytes) for t in group]
        offset = len(pack_header(entries, placeholder, alignment=PAGE_BYTES))
        size = offset + sum(tensor.size_bytes for tensor in group)
        file = OutputFile(path, size, direct=self._direct)
        self._files.append((file, entries))
        for tensor in group:
            self._places[tensor.name] = Place(file, offset)
            offset += tensor.size_bytes

    def lie(self, name: str, start: int) -> int:
        """Where in a page the bytes of a tensor from `start` on come to lie in their file."""
        return (self._places[name].offset + start) % PAGE_BYTES

    def write(self, name: str, start: int, data: Bytes) -> None:
        """Put bytes of a tensor in their place. `StoreFull` if the disk is."""
        place = self._places[name]
        with os_errors("writing", place.file.path):
            place.file.write(place.offset + start, data)

    def finish(self, metadata: Mapping[str, str], changed: Mapping[str, bytes] | None = None) -> None:
        """Write headers, index and companions that are `changed` or new, and give the result its name. What is
        replaced is gone then, so the new bytes are durable before, and readable. `CheckpointError` if something has
        come there meanwhile.
        """
        with os_errors("writing", self.out):
            is_replacing = is_there(self.out)
            if is_replacing and not self._force:
                raise CheckpointError(f"{self.out} has come there meanwhile. Choose another name, or use --force.")
            check_replaced(self.out, self._brings)
            durable = self._direct or is_replacing
            for file, entries in self._files:
                header = pack_header(entries, metadata, alignment=PAGE_BYTES)
                file.write(0, np.frombuffer(header, np.uint8))
                if durable:
                    file.sync()
                _require_readable(file.path, entries, metadata)
            if not self._is_file:
                self._finish_folder({} if changed is None else changed, durable)
            self._rename()
            sync(self.out.parent)
        self._close()

    def _copy_companions(self) -> None:
        """While nothing else has been done: what cannot be read says so in the first second."""
        for name, companion in self._companions.items():
            place = self._temporary / name
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as file:
                for piece in companion.pieces():
                    file.write(piece)

    def _finish_folder(self, changed: Mapping[str, bytes], durable: bool) -> None:
        for name, text in changed.items():
            (self._temporary / name).write_bytes(text)
        written = list({**self._companions, **changed})
        if len(self._files) > 1:
            index = {"metadata": {"total_size": self.num_bytes}, "weight_map": dict(sorted(self._index.items()))}
            text = msgspec.json.format(msgspec.json.encode(index), indent=2)
            written.append(index_name(self._stem))
            (self._temporary / written[-1]).write_bytes(text)
        if durable:
            folders = {parent for name in written for parent in (self._temporary / name).parents}
            inside = [folder for folder in folders if folder.is_relative_to(self._temporary)]
            for path in (*(self._temporary / name for name in written), *inside, self._temporary):
                sync(path)

    def _rename(self) -> None:
        """Over what was there, if anything. One folder cannot replace another, but two can exchange their names; where
        the file system cannot do that either, the old one steps aside first.
        """
        if self._is_file and not self.out.is_dir():
            self._temporary.replace(self.out)
            return
        if is_there(self.out) and exchange(self._temporary, self.out):
            return  # what was there has the other name now, and is removed by `discard`
        try:
            if is_there(self.out):
                self.out.rename(self._aside)
            self._temporary.rename(self.out)
        except BaseException:
            if is_there(self._aside) and not is_there(self.out):
                self._aside.rename(self.out)
            raise

    def discard(self) -> None:
        """Leave nothing behind but the result, if there is one."""
        self._close()
        _remove(self._temporary)
        _remove(self._aside)

    def _close(self) -> None:
        for file, _ in self._files:
            file.close()
        self._files = []


def _require_readable(path: Path, entries: Sequence[Entry], metadata: Mapping[str, str]) -> None:
    """`StoreError` if the library that will read the result finds anything else in it than was written."""
    try:
        with contextlib.closing(open_safetensors(path)) as opened:
            found = {name: (t.element.name, t.shape) for name, t in opened.tensors.items()}
            same = found == {name: (element, shape) for name, element, shape, _ in entries}
            if same and dict(opened.metadata) == dict(metadata):
                return
            why = "the table of tensors is another"
    except InvalidData as error:
        why = str(error)
    raise StoreError(
        f"{path} was written and cannot be read back ({why:.300}). What stood at its place is as it was. Check the "
        "disk, and try again."
    )


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _shards(tensors: Sequence[TensorInfo], shard_bytes: int | None) -> list[list[TensorInfo]]:
    """Tensors in order, a new shard before one that would make it larger than `shard_bytes`."""
    groups: list[list[TensorInfo]] = [[]]
    size = 0
    for tensor in tensors:
        if shard_bytes is not None and groups[-1] and size + tensor.size_bytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.size_bytes
    return groups
