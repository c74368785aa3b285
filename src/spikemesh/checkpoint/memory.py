"""State dicts in memory, as inputs of a merge and as its result: NumPy arrays or torch tensors by name."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spikemesh.checkpoint.source import Checkpoint, Tensor, TensorInfo
from spikemesh.checkpoint.torch_file import tensor_of
from spikemesh.checkpoint.windows import Bytes
from spikemesh.errors import CheckpointError
from spikemesh.kernels import ELEMENTS

StateDict = Mapping[str, Any]
"""By name: `numpy.ndarray` or `torch.Tensor`."""

FROM_NUMPY = {element.numpy: element for element in ELEMENTS.values() if element.numpy}


def is_torch(value: object) -> bool:
    """torch is not loaded to find that out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def open_state_dict(tensors: StateDict, name: str) -> Checkpoint:
    """A state dict as a checkpoint called `name`. It must not change while it is merged. `ValueError` for what is
    neither an array nor a tensor of a known type.
    """
    found = {str(key): _tensor(str(key), value, name) for key, value in tensors.items()}
    return Checkpoint(path=Path(name), tensors=dict(sorted(found.items())), files=())


def _tensor(key: str, value: Any, name: str) -> Tensor:
    if is_torch(value):
        return tensor_of(Path(name), key, value if value.is_meta else value.cpu(), sys.maxsize)
    array = np.asarray(value)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    element = FROM_NUMPY.get(little.dtype.str)
    if element is None:
        raise ValueError(f"expected numbers of a type of checkpoints in {key[:200]!r}, got {array.dtype}")
    data = np.ascontiguousarray(little).reshape(-1).view(np.uint8)
    return Tensor(name=key, element=element, shape=array.shape, read=partial(_copy, data))


def _copy(data: Bytes, start: int, out: memoryview) -> None:
    np.frombuffer(out, np.uint8)[:] = data[start : start + len(out)]


class MemorySink:
    """Takes a result's bytes into memory."""

    def __init__(self, results: Sequence[TensorInfo]) -> None:
        self._results = results
        self._data = {result.name: np.empty(result.size_bytes, np.uint8) for result in results}

    def lie(self, name: str, start: int) -> int:
        return 0

    def write(self, name: str, start: int, data: Bytes) -> None:
        self._data[name][start : start + len(data)] = data

    def state_dict(self, *, as_torch: bool) -> dict[str, Any]:
        """The result, in name order. `CheckpointError` for types that NumPy does not have."""
        make = self._as_torch if as_torch else self._as_numpy
        return {result.name: make(result) for result in sorted(self._results, key=lambda result: result.name)}

    def _as_numpy(self, result: TensorInfo) -> Any:
        return self._data[result.name].view(result.element.numpy).reshape(result.shape)

    def _as_torch(self, result: TensorInfo) -> Any:
        import torch

        from spikemesh.checkpoint.torch_file import TYPES

        dtype = next(name for name, element in TYPES.items() if element == result.element.name)
        flat = torch.empty(result.num_elements, dtype=getattr(torch, dtype.removeprefix("torch.")))
        flat.view(torch.uint8).numpy()[:] = self._data[result.name]
        return flat.reshape(result.shape)


def require_numpy_has(results: Sequence[TensorInfo]) -> None:
    """Before the long work: NumPy has no type for some."""
    for result in results:
        if not result.element.numpy:
            raise CheckpointError(
                f"NumPy has no {result.element.name}, which {result.name[:200]!r} is. Ask for another type, such as "
                'dtype="f32", give torch tensors, or name a file for the result.'
            )
