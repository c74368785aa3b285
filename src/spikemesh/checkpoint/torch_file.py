"""A PyTorch file (`.pt`, `.pth`, `.bin`) as a checkpoint: torch's restricted reader, mapped into memory, nested names.

What is nested gets dotted names: `{"model": {"w": t}, "optimizer": {"state": {0: {"exp_avg": m}}}}` holds `model.w`
and `optimizer.state.0.exp_avg`. Everything that is not a tensor is left out and named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikemesh.checkpoint.source import Checkpoint, Tensor
from spikemesh.errors import InvalidData
from spikemesh.kernels import ELEMENTS

if TYPE_CHECKING:
    import torch

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


def open_torch(path: Path) -> Checkpoint:
    """Open a zip file of `torch.save`. `InvalidData` if it holds Python objects, or tensors that we cannot merge."""
    try:
        import torch
    except ImportError as error:
        raise InvalidData(f"{path} is a PyTorch file, and torch is not installed: pip install torch.") from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a hostile file makes the reader raise
        raise InvalidData(
            f"{path} cannot be read as tensors alone ({str(error).splitlines()[0]:.200}). Load it where you trust it "
            "and save its state_dict, or write it as safetensors."
        ) from error
    tensors: dict[str, Tensor] = {}
    left_out = []
    for name, value in _leaves(loaded, path):
        if name in tensors:
            raise InvalidData(f"{path} holds two tensors named {name[:200]!r} once nested names are joined by dots.")
        if isinstance(value, torch.Tensor):
            tensors[name] = _tensor(path, name, value)
        else:
            left_out.append(name)
    return Checkpoint(path=path, tensors=dict(sorted(tensors.items())), left_out=tuple(sorted(left_out)), files=(path,))


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


def _tensor(path: Path, name: str, tensor: torch.Tensor) -> Tensor:
    import torch

    dtype = str(tensor.dtype)
    if dtype not in TYPES or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise InvalidData(
            f"{path}: expected a dense tensor of {', '.join(TYPES)} in {name[:200]!r}, got {dtype}, {tensor.layout}."
        )
    plain = tensor.detach().resolve_conj().resolve_neg()
    return Tensor(name=name, element=ELEMENTS[TYPES[dtype]], shape=tuple(plain.shape), read=partial(_read, plain))


def _read(tensor: torch.Tensor, start: int, out: memoryview) -> None:
    """Copy bytes out of the mapped file, whole elements. Transposed and sliced tensors are gathered in rows."""
    size = tensor.element_size()
    values = _flat_slice(tensor, start // size, len(out) // size)
    import torch

    np.frombuffer(out, np.uint8)[:] = values.contiguous().view(torch.uint8).numpy()


def _flat_slice(tensor: torch.Tensor, start: int, count: int) -> torch.Tensor:
    """Elements start..start+count of the row-major order, without making all of the tensor contiguous."""
    while tensor.ndim > 1 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.is_contiguous() or tensor.ndim <= 1:
        return tensor.reshape(-1)[start : start + count]
    row = tensor[0].numel()
    first = start // row
    rows = tensor[first : -(-(start + count) // row)]
    return rows.reshape(-1)[start - first * row :][:count]
