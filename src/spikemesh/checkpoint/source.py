"""What a merge reads: tensors by name, each a run of bytes that can be read from anywhere, by several threads.

Nothing is loaded when a checkpoint is opened: its memory is that of its table of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from spikemesh.errors import StoreError
from spikemesh.files.rim import os_errors
from spikemesh.kernels import Element

Reader = Callable[[int, memoryview], None]
"""`read(start_byte, out)` fills `out` with the tensor's bytes from `start_byte` on; any thread may call it."""


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """What a checkpoint's table says of one tensor: little-endian elements, row-major."""

    name: str
    element: Element
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.num_elements * self.element.size_bytes

    def describe(self) -> str:
        """Type and shape, for messages: `F32 [2, 3]`."""
        return f"{self.element.name} {list(self.shape)}"


@dataclass(frozen=True, kw_only=True)
class Tensor(TensorInfo):
    """One tensor of an opened checkpoint."""

    read: Reader = field(compare=False, repr=False)


@dataclass(frozen=True)
class SeenFile:
    """A file as it was at one moment: what tells, without reading it, that nothing has been written there since."""

    path: Path
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def see(cls, path: Path) -> SeenFile:
        """Look now. `StoreError` if it is not there."""
        with os_errors("opening", path):
            stat = path.stat()
        return cls(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)

    @property
    def is_untouched(self) -> bool:
        try:
            return self.see(self.path) == self
        except StoreError:
            return False


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint. Close it when done: it holds files open."""

    path: Path
    """What was asked for: a file, an index or a folder."""
    tensors: Mapping[str, Tensor]
    """In name order."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    """Names of what is in the file and is not a tensor."""
    containers: tuple[str, ...] = ()
    """Beginnings of names that are no part of a model's own: dictionaries of a file that holds several things."""
    files: tuple[SeenFile, ...]
    """The index, if there is one, and the files with the tensors' bytes, as they were just before they were opened."""
    resources: ExitStack = field(default_factory=ExitStack, compare=False, repr=False)

    @property
    def size_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors.values())

    def close(self) -> None:
        self.resources.close()
