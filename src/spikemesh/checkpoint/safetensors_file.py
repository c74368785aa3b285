"""A safetensors file as a checkpoint. The library checks the header: names, types, that the tensors fill the file."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open

from spikemesh.checkpoint.source import Checkpoint, SeenFile, Tensor
from spikemesh.errors import InvalidData
from spikemesh.files.rim import os_errors
from spikemesh.kernels import ELEMENTS

LENGTH_BYTES = 8


def open_safetensors(path: Path) -> Checkpoint:
    """Open a safetensors file. `InvalidData` if it is not a whole one or has a type we cannot merge."""
    resources = ExitStack()
    seen = SeenFile.see(path)
    with os_errors("opening", path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    resources.callback(os.close, fd)
    try:
        tensors, metadata = _read_table(path, fd)
    except BaseException:
        resources.close()
        raise
    return Checkpoint(path=path, tensors=tensors, metadata=metadata, files=(seen,), resources=resources)


def _read_table(path: Path, fd: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
            table = [(name, file.get_slice(name)) for name in file.offset_keys()]
            entries = [(name, view.get_dtype(), tuple(view.get_shape())) for name, view in table]
    except (SafetensorError, OSError) as error:
        raise InvalidData(
            f"{path} is not a whole safetensors file ({error!s:.200}). Download or copy it again."
        ) from error
    # The library has made sure that the tensors follow each other without a gap, from the header to the end.
    offset = LENGTH_BYTES + int.from_bytes(os.pread(fd, LENGTH_BYTES, 0), "little")
    tensors = {}
    for name, dtype, shape in entries:
        if dtype not in ELEMENTS:
            raise InvalidData(
                f"{path}: expected elements of {', '.join(ELEMENTS)} in tensor {name[:200]!r}, got {dtype}."
            )
        tensors[name] = Tensor(
            name=name, element=ELEMENTS[dtype], shape=shape, read=partial(read_exactly, path, fd, offset)
        )
        offset += tensors[name].size_bytes
    return dict(sorted(tensors.items())), metadata


def read_exactly(path: Path, fd: int, offset: int, start: int, out: memoryview) -> None:
    """Fill `out` from byte `offset + start` of the file on. `InvalidData` if the file has become shorter."""
    done = 0
    with os_errors("reading", path):
        while done < len(out):
            count = os.preadv(fd, [out[done:]], offset + start + done)
            if count == 0:
                raise InvalidData(f"{path} ended at byte {offset + start + done}: it was cut off after it was opened.")
            done += count
