"""Arrays by name as a safetensors file: a run's start (theta0 and masks), a trainee's state, a model."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize

from spikemesh.errors import InvalidData
from spikemesh.files.container import HEADER_LENGTH, pack_header
from spikemesh.kernels import ELEMENTS

Array = npt.NDArray[Any]

DTYPES = {name: element.numpy for name, element in ELEMENTS.items() if element.numpy}
_NAMES = {np.dtype(code): name for name, code in DTYPES.items()}


@dataclass(frozen=True)
class TensorFile:
    """A file of tensors before their bytes are there: its header, and where each of them begins."""

    header: bytes
    offsets: Mapping[str, int]
    num_bytes: int

    @classmethod
    def of(
        cls, shapes: Mapping[str, tuple[npt.DTypeLike, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
    ) -> TensorFile:
        """The same file for the same names, types and shapes. Wide elements come first, so that all are aligned."""
        types = {name: np.dtype(dtype) for name, (dtype, _) in shapes.items()}
        unknown = {str(dtype) for dtype in types.values() if dtype not in _NAMES}
        if unknown:
            raise ValueError(f"expected arrays of {sorted(map(str, _NAMES))}, got {sorted(unknown)}")
        entries = [
            (name, _NAMES[types[name]], shapes[name][1], math.prod(shapes[name][1]) * types[name].itemsize)
            for name in sorted(shapes, key=lambda name: (-types[name].itemsize, name))
        ]
        header = pack_header(entries, metadata)
        ends = list(accumulate((size for *_, size in entries), initial=len(header)))
        return cls(header, {entry[0]: start for entry, start in zip(entries, ends, strict=False)}, ends[-1])


def write_tensors(tensors: Mapping[str, npt.NDArray[np.generic]], metadata: Mapping[str, str] | None = None) -> bytes:
    """The file of `tensors`, the same bytes for the same arrays; see `TensorFile`."""
    file = TensorFile.of({name: (array.dtype, array.shape) for name, array in tensors.items()}, metadata)
    arrays = [tensors[name] for name in file.offsets]
    parts = [np.ascontiguousarray(array, DTYPES[_NAMES[array.dtype]]).tobytes() for array in arrays]
    return b"".join((file.header, *parts))


def read_tensor_file(data: bytes) -> dict[str, Array]:
    """The arrays of a safetensors file, writable; `InvalidData` if it is not one or holds elements we do not use.

    The library checks that the header describes exactly the bytes that follow, so what is allocated is at most a
    constant times `len(data)`.
    """
    return {name: array for name, (array, _) in _read(data, DTYPES).items()}


def _read(data: bytes, dtypes: Mapping[str, str]) -> dict[str, tuple[Array, str]]:
    """Arrays of these types, and the names of their types."""
    try:
        found = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise InvalidData(f"not a safetensors file: {error!s:.200}") from error
    tensors: dict[str, tuple[Array, str]] = {}
    for name, view in found:
        if view["dtype"] not in dtypes:
            raise InvalidData(f"expected elements of {', '.join(dtypes)} in tensor {name:.64}, got {view['dtype']}")
        array = np.frombuffer(view["data"], dtypes[view["dtype"]])
        if array.dtype == np.bool_ and (array.view(np.uint8) > 1).any():
            raise InvalidData(f"expected zeros and ones in tensor {name:.64}, got {array.view(np.uint8).max()}")
        try:
            tensors[name] = array.reshape(view["shape"]), view["dtype"]
        except ValueError as error:  # more dimensions, or empty ones of more elements, than NumPy has
            raise InvalidData(f"tensor {name:.64} has a shape that cannot be used: {view['shape']!s:.100}") from error
    return tensors


def read_weights(data: bytes) -> dict[str, Array]:
    """As `read_tensor_file`, with numbers of half precision, of both kinds, as the float32 that they are."""
    halves = {"F16": "<f2", "BF16": "<u2"}
    found = _read(data, {**DTYPES, **halves})
    return {name: _whole(array, element) for name, (array, element) in found.items()}


def _whole(array: Array, element: str) -> Array:
    if element == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if element == "F16" else array


def read_metadata(data: bytes) -> dict[str, str]:
    """The strings that stand beside the tensors of a safetensors file. `InvalidData` if its header cannot be read."""
    try:
        (length,) = HEADER_LENGTH.unpack_from(data)
        if length > len(data) - HEADER_LENGTH.size:
            raise ValueError(f"a header of {length} bytes in a file of {len(data)}")
        header = json.loads(data[HEADER_LENGTH.size : HEADER_LENGTH.size + length])
    except (struct.error, ValueError, RecursionError) as error:
        raise InvalidData(f"not a safetensors file: {error!s:.200}") from error
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise InvalidData("expected a JSON object of strings as the file's __metadata__; another program damaged it")
    return metadata


def read_tensors(data: bytes, *, expected: Mapping[str, tuple[npt.DTypeLike, tuple[int, ...]]]) -> dict[str, Array]:
    """As `read_tensor_file`, and exactly the `expected` names, each with its dtype and shape."""
    tensors = read_tensor_file(data)
    if tensors.keys() != expected.keys():
        raise InvalidData(f"expected the tensors {sorted(expected)!s:.500}, got {sorted(tensors)!s:.500}")
    for name, (dtype, shape) in expected.items():
        array = tensors[name]
        if array.dtype != np.dtype(dtype) or array.shape != shape:
            raise InvalidData(f"expected {name} as {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape!s:.100}")
    return tensors
