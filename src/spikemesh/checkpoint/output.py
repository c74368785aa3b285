"""Writing the result: a safetensors file, or a folder with shards and companions; whole, or not at all.

Everything is written under a name that ends in `.unfinished`, made durable, and renamed at the end.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from spikemesh.checkpoint.source import TensorInfo
from spikemesh.checkpoint.windows import Bytes
from spikemesh.codec.container import Entry, pack_header
from spikemesh.errors import CheckpointError, StoreFull
from spikemesh.store.files import UNFINISHED, discard, sync, write_file_atomic
from spikemesh.store.rim import os_errors

SINGLE_NAME = "model.safetensors"
SPARE_BYTES = 16 << 20
"""What must stay free beside the result itself."""


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes go."""

    fd: int
    offset: int
    path: Path


def check_free(out: Path, *, force: bool) -> None:
    """`CheckpointError` if something is at `out` already and may not be replaced, or if its folder is not there."""
    if not out.parent.is_dir():
        raise CheckpointError(f"the folder {out.parent} is not there. Make it, or choose another place for the result.")
    if out.exists() and not force:
        raise CheckpointError(f"{out} is already there. Choose another name, or replace it with --force.")


def check_space(folder: Path, needed_bytes: int) -> None:
    """`StoreFull` if the disk of `folder` has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + SPARE_BYTES:
        raise StoreFull(
            f"the result takes {needed_bytes / 1e9:.2f} GB and the disk of {folder} has {free / 1e9:.2f} GB left. Free "
            "some, or write to another disk."
        )


class Output:
    """The files of one result, open for writing. `write` from any thread, then `finish`; or `discard`."""

    def __init__(
        self,
        out: Path,
        tensors: Sequence[TensorInfo],
        placeholder: Mapping[str, str],
        *,
        shard_bytes: int | None = None,
        companions: Mapping[str, Path] | None = None,
    ) -> None:
        """`placeholder` is metadata of exactly the size that `finish` will bring; tensors lie in the order given.

        `out` is a file if it ends in .safetensors, else a folder: only that can have shards or companions.
        """
        self.out = out
        self._is_file = out.suffix == ".safetensors"
        if self._is_file and shard_bytes is not None:
            raise CheckpointError(
                f"{out} is one file; shards go into a folder. Leave out .safetensors or --shard-size."
            )
        self._companions = companions or {}
        groups = _shards(tensors, shard_bytes)
        names = (
            [SINGLE_NAME]
            if len(groups) == 1
            else [f"model-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
        )
        self.num_bytes = sum(tensor.size_bytes for tensor in tensors)
        self._temporary = out.with_name(f"{out.name}.{secrets.token_hex(4)}{UNFINISHED}")
        self._files: list[tuple[Path, int, list[Entry]]] = []
        self._index = {tensor.name: name for name, group in zip(names, groups, strict=True) for tensor in group}
        self._places: dict[str, Place] = {}
        try:
            with os_errors("writing", self._temporary):
                if not self._is_file:
                    self._temporary.mkdir()
                for name, group in zip(names, groups, strict=True):
                    self._create(self._temporary if self._is_file else self._temporary / name, group, placeholder)
        except BaseException:
            self.discard()
            raise

    def _create(self, path: Path, group: Sequence[TensorInfo], placeholder: Mapping[str, str]) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        entries: list[Entry] = [(t.name, t.element.name, t.shape, t.size_bytes) for t in group]
        self._files.append((path, fd, entries))
        offset = len(pack_header(entries, placeholder))
        for tensor in group:
            self._places[tensor.name] = Place(fd, offset, path)
            offset += tensor.size_bytes
        os.ftruncate(fd, offset)

    def write(self, name: str, start: int, data: Bytes) -> None:
        """Put bytes of a tensor in their place. `StoreFull` if the disk is."""
        place = self._places[name]
        rest, offset = data.data, place.offset + start
        with os_errors("writing", place.path):
            while len(rest):
                count = os.pwrite(place.fd, rest, offset)
                rest, offset = rest[count:], offset + count

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write headers, index and companions, make all of it durable, and give it its name."""
        with os_errors("writing", self.out):
            for _, fd, entries in self._files:
                os.pwrite(fd, pack_header(entries, metadata), 0)
                os.fsync(fd)
            if not self._is_file:
                self._finish_folder()
            self._rename()
            sync(self.out.parent)
        self._close()

    def _finish_folder(self) -> None:
        for name, path in self._companions.items():
            write_file_atomic(self._temporary / name, path.read_bytes())
        if len(self._files) > 1:
            index = {"metadata": {"total_size": self.num_bytes}, "weight_map": dict(sorted(self._index.items()))}
            text = msgspec.json.format(msgspec.json.encode(index), indent=2)
            write_file_atomic(self._temporary / (SINGLE_NAME + ".index.json"), text)
        sync(self._temporary)

    def _rename(self) -> None:
        """Over what was there, if anything. A folder cannot be replaced in one step: the old one steps aside first."""
        if self._is_file and not self.out.is_dir():
            self._temporary.replace(self.out)
            return
        aside = self._temporary.with_suffix(".old" + UNFINISHED)
        if self.out.exists():
            self.out.rename(aside)
        self._temporary.rename(self.out)
        _remove(aside)

    def discard(self) -> None:
        """Leave nothing behind. Does nothing after `finish`."""
        self._close()
        _remove(self._temporary)

    def _close(self) -> None:
        for _, fd, _ in self._files:
            os.close(fd)
        self._files = []


def _remove(path: Path) -> None:
    if path.is_dir():
        with contextlib.suppress(OSError):
            shutil.rmtree(path)
    else:
        discard(path)


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
