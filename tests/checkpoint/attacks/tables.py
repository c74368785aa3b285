"""safetensors files that say of themselves what is not so."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

GOOD = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "I64", "shape": [1], "data_offsets": [8, 16]},
}
DATA = bytes(range(16))


def packed(header: object, data: bytes = DATA, *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def with_tensor(name: str = "a", **changed: object) -> dict[str, object]:
    return GOOD | {name: GOOD["a"] | changed}


def attacks() -> Iterator[tuple[str, bytes]]:
    """Every one of them must be refused."""
    good = packed(GOOD)
    yield "empty", b""
    yield "seven bytes", good[:7]
    yield "a length alone", good[:8]
    yield "all but one byte", good[:-1]
    yield "a byte behind it", good + b"\0"
    yield "a second file behind it", good + good
    for length in (0, 1, 100_000_001, 1 << 32, 1 << 63, (1 << 64) - 1):
        yield f"a header of {length} bytes", packed(GOOD, length=length)
    yield "a header one byte short", packed(GOOD, length=len(json.dumps(GOOD)) - 1)
    yield "a header one byte long", packed(GOOD, length=len(json.dumps(GOOD)) + 1)
    for name, header in {
        "no JSON": b"{",
        "JSON twice": b"{}{}",
        "a list": b"[]",
        "a number": b"1",
        "null": b"null",
        "no text": b'{"\xff": 1}',
        "half of a surrogate pair": b'{"\\ud800": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}',
        "nested deeply": b"[" * 100_000,
        "nested deeply in a tensor": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        "a tensor that is a list": b'{"a": []}',
        "a tensor that is null": b'{"a": null}',
    }.items():
        yield name, packed(header)
    for field in ("dtype", "shape", "data_offsets"):
        yield f"no {field}", packed(GOOD | {"a": {k: v for k, v in GOOD["a"].items() if k != field}})
    for dtype in ("F33", "f32", "", "BF16 ", "C64", 7, None):
        yield f"type {dtype}", packed(with_tensor(dtype=dtype))
    for shape in (
        [3],
        [1],
        [2, 2],
        [0],
        [-2],
        [2.0],
        ["2"],
        2,
        None,
        [1 << 62],
        [1 << 63],
        [1 << 64],
        [1 << 32, 1 << 32],
        [1 << 62, 4, 2],
        [1 << 63, 0],
        [10**30],
    ):
        yield f"shape {shape}", packed(with_tensor(shape=shape))
    for offsets in (
        [0, 4],
        [0, 16],
        [8, 0],
        [8, 16],
        [4, 12],
        [1, 9],
        [-8, 0],
        [0, 1 << 63],
        [(1 << 64) - 8, 0],
        [1 << 60, (1 << 60) + 8],
        [0],
        [0, 8, 16],
        [0.0, 8.0],
        None,
    ):
        yield f"offsets {offsets}", packed(with_tensor(data_offsets=offsets))
    yield "a hole at the start", packed({"b": GOOD["b"]})
    yield "a hole in the middle", packed(with_tensor("b", dtype="I32", data_offsets=[12, 16]))
    yield "a hole at the end", packed({"a": GOOD["a"]})
    yield "a hole as large as an empty tensor", packed(with_tensor("c", shape=[0], data_offsets=[24, 24]))
    yield "two tensors in one place", packed(with_tensor("b", data_offsets=[0, 8]), DATA[:8])
    yield (
        "one name twice",
        packed(
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}'
        ),
    )
    yield "metadata that is a list", packed(GOOD | {"__metadata__": []})
    yield "metadata of numbers", packed(GOOD | {"__metadata__": {"a": 1}})
    yield "metadata of objects", packed(GOOD | {"__metadata__": {"a": {"b": "c"}}})
    yield "metadata that is a tensor", packed({"__metadata__": GOOD["a"], "b": GOOD["b"]})
    yield "a type we cannot merge", packed(with_tensor(dtype="F8_E8M0", shape=[8]))
    yield "a pickle", b"\x80\x02}q\x00."
    yield "text", b'{"weights": "none"}'
    yield "a web page", b"<!DOCTYPE html><html><body>Sign in to download</body></html>"
    yield "a pointer of large file storage", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    yield "a compressed file", b"\x1f\x8b\x08\0\0\0\0\0"
