"""Files of tensors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors import numpy as safetensors_numpy

from spikemesh.codec import read_metadata, read_tensor_file, read_tensors, write_tensors
from spikemesh.codec.tensors import DTYPES
from spikemesh.errors import InvalidData

Tensors = dict[str, npt.NDArray[Any]]


def example() -> Tensors:
    rng = np.random.default_rng(0)
    tensors: Tensors = {
        name: rng.integers(0, 2, (3, 5)).astype(dtype)
        for name, dtype in sorted(DTYPES.items(), key=lambda item: hash(item))
    }
    return {**tensors, "scalar": np.array(3, np.int64), "none": np.empty((0, 4), np.float32), "é": np.ones(1, np.int8)}


def test_round_trip() -> None:
    tensors = example()
    read = read_tensor_file(write_tensors(tensors))
    assert read.keys() == tensors.keys()
    for name, array in tensors.items():
        assert read[name].dtype == array.dtype and read[name].shape == array.shape
        assert np.array_equal(read[name], array)
        assert read[name].flags.writeable


def test_the_same_bytes_whatever_the_order_and_memory_layout() -> None:
    tensors = example()
    data = write_tensors(tensors)
    strided = {name: np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array for name, array in tensors.items()}
    assert write_tensors(dict(reversed(strided.items()))) == data
    assert write_tensors({"F32": np.asfortranarray(tensors["F32"])}) == write_tensors({"F32": tensors["F32"]})


def test_the_library_reads_ours_and_we_read_its() -> None:
    tensors = example()
    data = write_tensors(tensors)
    for read in (safetensors_numpy.load(data), read_tensor_file(safetensors_numpy.save(tensors))):
        assert read.keys() == tensors.keys()
        assert all(np.array_equal(array, tensors[name]) for name, array in read.items())


def test_metadata_is_written_in_order() -> None:
    data = write_tensors({"a": np.zeros(2, np.float32)}, metadata={"z": "1", "digest": "ab"})
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert list(header["__metadata__"].items()) == [("digest", "ab"), ("z", "1")]
    assert read_tensor_file(data)["a"].tolist() == [0, 0]
    assert read_metadata(data) == {"digest": "ab", "z": "1"}


def test_metadata_is_read_from_any_writer() -> None:
    array = {"a": np.zeros(2, np.float32)}
    said = {"model": '{"é": 1}', "": ""}
    assert read_metadata(safetensors_numpy.save(array, metadata=said)) == said
    assert read_metadata(write_tensors(array)) == read_metadata(safetensors_numpy.save(array)) == {}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b'"__metadata__"',
        b'{"__metadata__":[]}',
        b'{"__metadata__":{"a":1}}',
        b'{"__metadata__":{"a":null}}',
        b'{"__metadata__":{"a":"\xff"}}',
        b"[" * 100_000,
        b'{"__metadata__":{}',
    ],
)
def test_metadata_that_is_none_is_refused(header: bytes) -> None:
    good = len(header).to_bytes(8, "little") + header
    longer = (len(header) + 1).to_bytes(8, "little") + header
    for data in (good, longer, good[:7], (1 << 63).to_bytes(8, "little") + header):
        with pytest.raises(InvalidData):
            read_metadata(data)


def test_a_header_that_ends_behind_the_file_is_refused() -> None:
    assert read_metadata((2).to_bytes(8, "little") + b"{}") == {}
    with pytest.raises(InvalidData, match="a header of 3 bytes in a file of 10"):
        read_metadata((3).to_bytes(8, "little") + b"{}")


def test_other_elements_are_not_written() -> None:
    for array in (np.array(["x"]), np.array([1j]), np.array([None])):
        with pytest.raises(ValueError, match="expected arrays of"):
            write_tensors({"a": array})


def test_what_was_expected_is_read() -> None:
    data = write_tensors({"theta0": np.arange(3, dtype=np.float32), "mask": np.array([7], np.uint8)})
    expected: dict[str, tuple[npt.DTypeLike, tuple[int, ...]]] = {
        "theta0": (np.float32, (3,)),
        "mask": (np.uint8, (1,)),
    }
    assert read_tensors(data, expected=expected)["theta0"].tolist() == [0, 1, 2]
    for change in (
        {"theta0": (np.float32, (4,))},
        {"theta0": (np.float32, (3, 1))},
        {"theta0": (np.float64, (3,))},
        {"more": (np.float32, (3,))},
    ):
        with pytest.raises(InvalidData, match="expected"):
            read_tensors(data, expected={**expected, **change})
    with pytest.raises(InvalidData, match="expected"):
        read_tensors(data, expected={"theta0": (np.float32, (3,))})


def file(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(dtype: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(8),
        (1 << 63).to_bytes(8, "little") + b"{}",
        file(b"{"),
        file(b"[]"),
        file(b"[" * 100_000),
        file(b'{"a":' * 100_000),
        file(b"\xff"),
        file({"a": tensor("F32", [1], 0, 4)}),
        file({"a": tensor("F32", [1], 0, 4)}, bytes(5)),
        file({"a": tensor("F32", [2], 0, 4)}, bytes(4)),
        file({"a": tensor("F32", [1], 4, 8)}, bytes(8)),
        file({"a": tensor("F32", [1], 0, 4), "b": tensor("F32", [1], 0, 4)}, bytes(4)),
        file({"a": tensor("F32", [1], 0, 4), "b": tensor("F32", [1], 2, 6)}, bytes(6)),
        file({"a": tensor("F32", [-1], 0, 4)}, bytes(4)),
        file({"a": tensor("F32", [1 << 62, 1 << 62], 0, 4)}, bytes(4)),
        file({"a": tensor("F32", [1 << 62, 4, 0], 0, 0)}),
        file({"a": tensor("F32", [1] * 70, 0, 4)}, bytes(4)),
        file({"a": tensor("F33", [1], 0, 4)}, bytes(4)),
        file({"a": tensor("BF16", [2], 0, 4)}, bytes(4)),
        file({"a": tensor("BOOL", [2], 0, 2)}, b"\x01\x02"),
        file({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
        file({"__metadata__": {"a": 1}}),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidData):
        read_tensor_file(data)
