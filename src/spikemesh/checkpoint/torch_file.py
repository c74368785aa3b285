"""A PyTorch file (`.pt`, `.pth`, `.bin`) as a checkpoint: torch's restricted reader, mapped into memory, nested names.

What is nested gets dotted names: `{"model": {"w": t}, "optimizer": {"state": {0: {"exp_avg": m}}}}` holds `model.w`
and `optimizer.state.0.exp_avg`. Everything that is not a tensor is left out and named.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spikemesh.checkpoint.source import Checkpoint, SeenFile, Tensor
from spikemesh.errors import InvalidData
from spikemesh.kernels import ELEMENTS

TorchTensor = Any
"""A `torch.Tensor`. torch is imported where a file needs it, and nowhere for a name."""

TYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint64": "U64",
    "torch.uint32": "U32",
    "torch.uint16": "U16",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
MAX_DEPTH = 32
MAX_LEAVES = 1 << 20
RESERVED_NAME = "__metadata__"
"""What safetensors calls the strings beside the tensors."""


def open_torch(path: Path) -> Checkpoint:
    """Open what `torch.save` wrote. `InvalidData` if it holds Python objects, or tensors that we cannot merge."""
    if path.suffix == ".safetensors":  # torch goes by that
        raise InvalidData(f"{path} is a PyTorch file under the name of a safetensors file. Rename it to end in .pt.")
    seen = SeenFile.see(path)
    sizes = _record_sizes(path, seen.size)
    return _opened(path, seen, _load(path, mmap=True), sizes)


def open_legacy_torch(path: Path) -> Checkpoint:
    """Open what torch before 1.6 wrote: by the same restricted reader, all of it into memory."""
    seen = SeenFile.see(path)
    return _opened(path, seen, _load(path, mmap=False), None)


def _load(path: Path, *, mmap: bool) -> Any:
    try:
        import torch
    except ImportError as error:
        raise InvalidData(f"{path} is a PyTorch file, and torch is not installed: pip install torch.") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # whatever a hostile file makes the reader raise
        raise InvalidData(
            f"{path} cannot be read as tensors alone ({_reason(error)}). Load it where you trust it and save its "
            "state_dict, or write it as safetensors."
        ) from error


GLOBAL = re.compile(r"(?:GLOBAL|global|class|function|type)[: ]+([A-Za-z_][\w.]*\.[\w.]+)")
"""How torch's reader names the Python object that it does not make."""
ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def _reason(error: Exception) -> str:
    """What stopped torch's reader: the object, if it names one, without its advice."""
    text = ESCAPE.sub("", str(error))
    named = GLOBAL.search(text)
    if named is not None:
        return f"it holds a Python object: {named[1]:.200}"
    _, marked, rest = text.partition("WeightsUnpickler error:")
    return f"{(rest if marked else text).strip().partition(chr(10))[0] or type(error).__name__:.200}"


def _opened(path: Path, seen: SeenFile, loaded: Any, sizes: frozenset[int] | None) -> Checkpoint:
    """`sizes` of the records of a file that is mapped."""
    import torch

    tensors: dict[str, Tensor] = {}
    left_out: set[str] = set()
    for number, (name, value) in enumerate(_leaves(loaded, path)):
        if number >= MAX_LEAVES:
            raise InvalidData(f"{path} holds more than {MAX_LEAVES} values. Save its state_dict alone.")
        if not isinstance(value, torch.Tensor):
            left_out.add(name)
        elif name in tensors:
            raise InvalidData(f"{path} holds two tensors named {name[:200]!r} once nested names are joined by dots.")
        else:
            tensors[name] = tensor_of(path, name, value, seen.size)
            if sizes is not None and value.untyped_storage().nbytes() not in sizes:  # it would go on into what follows
                raise InvalidData(f"{path} holds less than all of tensor {name[:200]!r}. Download or copy it again.")
    return Checkpoint(
        path=path,
        tensors=dict(sorted(tensors.items())),
        left_out=tuple(sorted(left_out)),
        containers=_containers(loaded),
        files=(seen,),
    )


def _containers(loaded: Any) -> tuple[str, ...]:
    """What a trainer wrote beside other things: dictionaries inside of the outermost one."""
    items = loaded.items() if isinstance(loaded, Mapping) else ()
    return tuple(f"{key}." for key, value in items if isinstance(value, Mapping))


def _record_sizes(path: Path, size: int) -> frozenset[int]:
    """Of the records in the container, among them one for each storage. torch compresses nothing: what is compressed
    would become large only in memory.
    """
    try:
        with zipfile.ZipFile(path) as container:
            records = container.infolist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise InvalidData(f"{path} is not a whole PyTorch file ({error!s:.200}). Download or copy it again.") from error
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED or record.file_size > size:
            raise InvalidData(
                f"{path}: expected records as torch.save writes them, not compressed, got {record.filename[:200]!r} of "
                f"{record.file_size} bytes in {record.compress_size}. Unpack it if it is an archive of checkpoints."
            )
    return frozenset(record.file_size for record in records) | {0}


def _leaves(value: Any, path: Path, names: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Everything that is not a dictionary, list or tuple, with the path to it as a dotted name."""
    if len(names) > MAX_DEPTH:
        raise InvalidData(f"{path} nests deeper than {MAX_DEPTH} levels.")
    if isinstance(value, Mapping):
        items: Iterator[tuple[Any, Any]] = iter(value.items())
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        yield ".".join(names) or "tensor", value
        return
    for key, inner in items:
        yield from _leaves(inner, path, (*names, str(key)))


def tensor_of(path: Path, name: str, tensor: TorchTensor, max_bytes: int) -> Tensor:
    """One tensor, read where it lies. `InvalidData` for what has no place in a checkpoint."""
    import torch

    dtype = str(tensor.dtype)
    if dtype not in TYPES or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise InvalidData(
            f"{path}: expected a dense tensor of {', '.join(TYPES)} in {name[:200]!r}, got {dtype}, {tensor.layout}, "
            f"{tensor.device}."
        )
    if name == RESERVED_NAME or not _is_text(name):
        raise InvalidData(f"{path}: {name[:200]!r} cannot be a tensor's name in a safetensors file. Rename it.")
    plain = tensor.detach().resolve_conj().resolve_neg()
    found = Tensor(name=name, element=ELEMENTS[TYPES[dtype]], shape=tuple(plain.shape), read=partial(_read, plain))
    if found.size_bytes > max_bytes:
        raise InvalidData(
            f"{path} of {max_bytes} bytes expands tensor {name[:200]!r} to {found.size_bytes}. Save it as it is stored."
        )
    return found


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # a pickle's strings may hold half of a surrogate pair
        return False
    return True


def _read(tensor: TorchTensor, start: int, out: memoryview) -> None:
    """Copy bytes out of the mapped file, whole elements."""
    import torch

    size = tensor.element_size()
    into = np.frombuffer(out, np.uint8)
    done = 0
    for part in _parts(tensor, start // size, len(out) // size):
        dense = part if part.stride(0) == 1 else part.clone(memory_format=torch.contiguous_format)
        data = dense.view(torch.uint8).numpy()
        into[done : done + len(data)] = data
        done += len(data)


def _parts(tensor: TorchTensor, start: int, count: int) -> Iterator[TorchTensor]:
    """Elements start..start+count of the row-major order, one-dimensional, a few pieces after each other.

    Transposed and sliced tensors are gathered from their rows without making more of them contiguous than is asked for.
    """
    if count == 0:
        return
    if tensor.is_contiguous() or tensor.ndim <= 1:
        yield tensor.reshape(-1)[start : start + count]
        return
    row = tensor[0].numel()
    first, last = -(-start // row), (start + count) // row
    if first > last:  # inside one row
        yield from _parts(tensor[last], start - last * row, count)
        return
    yield from _parts(tensor[first - 1], start - (first - 1) * row, first * row - start) if first * row > start else ()
    yield from (tensor[first:last].reshape(-1),) if last > first else ()
    yield from _parts(tensor[last], 0, start + count - last * row) if start + count > last * row else ()
