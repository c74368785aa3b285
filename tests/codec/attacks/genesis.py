"""Attacks on `decode_genesis`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec
from tests.codec.examples import GENESIS

from spikemesh.codec import encode_genesis

GOOD: dict[str, Any] = msgspec.msgpack.decode(encode_genesis(GENESIS))


def attacks() -> Iterator[tuple[str, bytes]]:
    for field, value in _changes():
        yield f"{field} = {value!r:.60}", msgspec.msgpack.encode({**GOOD, field: value})
    for field in GOOD:
        yield f"without {field}", msgspec.msgpack.encode({k: v for k, v in GOOD.items() if k != field})
    yield "unknown field", msgspec.msgpack.encode({**GOOD, "more": 1})
    yield "other order", msgspec.msgpack.encode(dict(reversed(GOOD.items())))
    yield "map not sorted", msgspec.msgpack.encode({**GOOD, "model": {"b": 1, "a": 2}})
    good = encode_genesis(GENESIS)
    yield "duplicate setting", good.replace(b"\xa6recipe\x81", b"\xa6recipe\x82\xa2lr\x01")
    yield "trailing byte", good + b"\0"
    yield "huge", msgspec.msgpack.encode({**GOOD, "name": "x" * (1 << 20)})
    yield "float of 32 bits", good.replace(b"\xa4leak\xcb\x3f\xe0" + bytes(6), b"\xa4leak\xca\x3f\x00\x00\x00")
    yield "huge array of tensors", good.replace(b"\xa7tensors\x92", b"\xa7tensors\xdd\xff\xff\xff\xff")


def _changes() -> Iterator[tuple[str, Any]]:
    for name in ("", "x" * 257, None, b"x"):
        yield "name", name
    for field in ("founder", "init_hash"):
        for value in (b"", bytes(31), bytes(33), "x" * 32):
            yield field, value
    for value in (0, -1, 1 << 41, 1.0):
        yield "init_bytes", value
    for value in (-65, 1, 1 << 63, -26.0, None):
        yield "grid_exponent", value
    for value in ({"": 1}, {"x" * 257: 1}, {"a": math.nan}, {"a": math.inf}, {"a": "x" * 1025}, {"a": None}, {"a": []}):
        yield "model", value
    yield "recipe", {"a": (1 << 64) - 1}
    yield "recipe", {f"{n:04}": n for n in range(257)}
    yield "recipe", {1: 2}
    for tensors in (
        [],
        None,
        [["a", [2], 2]],
        [["a", [2], 2, False, 0]],
        [["b", [2], 2, False], ["a", [2], 2, False]],
        [["a", [2], 2, False], ["a", [2], 2, False]],
        [["", [2], 2, False]],
        [["x" * 257, [2], 2, False]],
        [["a", [2], 1, False]],
        [["a", [2], 3, True]],
        [["a", [2], -1, True]],
        [["a", [2], 0, True]],  # no coordinate at all
        [["a", [0], 0, False]],
        [["a", [-1, -2], 2, False]],
        [["a", [1] * 9, 1, False]],
        [["a", [1 << 40, 2], 1, True]],
        [["a", [1 << 63, 1 << 63], 1, True]],
        [["a", [1 << 33], 1 << 33, False]],
        [["a", [1 << 32], 1 << 32, False], ["b", [1], 1, False]],
        [["a", [2.0], 2, False]],
        [["a", [2], 2, 0]],
        [[b"a", [2], 2, False]],
        [[f"{n:08}", [1], 1, False] for n in range(65_537)],
    ):
        yield "tensors", tensors
