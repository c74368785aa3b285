"""Attacks on `decode_record`: bodies signed by their author, so that only validation stands in the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from tests.codec.examples import AUTHOR, CONTRIBUTION, KEY, RETRACTION

from spikemesh.codec.records import DOMAIN
from spikemesh.crdt import MAX_SEQ

B, C = b"\xb1" * 32, b"\xc1" * 32

GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of Ed25519: a signature with s + this is the same one in other bytes (RFC 8032, section 8.4)."""

GOOD: dict[str, dict[str, Any]] = {
    "contribution": msgspec.msgpack.decode(CONTRIBUTION.wire[64:]),
    "retraction": msgspec.msgpack.decode(RETRACTION.wire[64:]),
}


def signed(body: bytes) -> bytes:
    return KEY.sign(DOMAIN + body) + body


def attacks() -> Iterator[tuple[str, bytes]]:
    for kind, field, value in _changes():
        yield f"{kind}: {field} = {value!r:.60}", signed(msgspec.msgpack.encode({**GOOD[kind], field: value}))
    for kind, body in GOOD.items():
        yield f"{kind}: unknown field", signed(msgspec.msgpack.encode({**body, "more": 1}))
        yield f"{kind}: other order", signed(msgspec.msgpack.encode(dict(reversed(body.items()))))
        yield f"{kind}: as an array", signed(msgspec.msgpack.encode(list(body.values())))
        for field in body:
            without = {name: value for name, value in body.items() if name != field}
            yield f"{kind}: without {field}", signed(msgspec.msgpack.encode(without))
    yield from _bytes()


def _changes() -> Iterator[tuple[str, str, Any]]:
    for kind in GOOD:
        for field in ("run_id", "author"):
            for value in (b"", GOOD[kind][field][:31], GOOD[kind][field] + b"\0", B, None, "x" * 32, 5):
                yield kind, field, value
        for seq in (0, -1, MAX_SEQ + 1, 1 << 63, 1.0, 3.5, True, None, "3"):
            yield kind, "seq", seq
        yield kind, "type", "genesis"
        for past in _pasts():
            yield kind, "past", past
    for field, bad in (
        ("weight", (0, -1, 4097, 1 << 64, 1 << 63, 1.0)),
        ("delta_bytes", (0, -1, 1 << 40, 1 << 63)),
        ("num_tokens", (-1, 1 << 49, None)),
        ("delta_hash", (b"", bytes(31), bytes(33))),
    ):
        for value in bad:
            if not (isinstance(value, int) and value >= 1 << 64):
                yield "contribution", field, value
    for targets in (
        [],
        [B, B],
        [C, B],
        [b""],
        [bytes(31)],
        [bytes(33)],
        [b"%32d" % n for n in range(200)],
        None,
        [1],
        B,
    ):
        yield "retraction", "targets", targets


def _pasts() -> Iterator[Any]:
    yield from (None, {}, 1, [[B]], [[B, 1, [], 0]], [[B, 1]], [[B, "1", []]], [B], [[b"", 1, []]], [[B[:31], 1, []]])
    yield [[B, 0, []]]
    yield [[B, -1, []]]
    yield [[B, MAX_SEQ + 1, []]]
    yield [[B, 1, [2]]]  # continues the prefix
    yield [[B, 2, [1]]]
    yield [[B, 0, [1]]]
    yield [[B, 1, [4, 3]]]
    yield [[B, 1, [3, 3]]]
    yield [[B, 1, [MAX_SEQ + 1]]]
    yield [[B, 1, [-5]]]
    yield [[C, 1, []], [B, 1, []]]
    yield [[B, 1, []], [B, 2, []]]
    yield [[AUTHOR, 4, []]]  # the retraction has number 4, the contribution 3
    yield [[AUTHOR, 0, [4]]]
    yield [[AUTHOR, 1, [3, 4]]]
    yield [[bytes([n]) * 32, 1, []] for n in range(65)]
    yield [[B, 1, list(range(3, 132))]]


def _bytes() -> Iterator[tuple[str, bytes]]:
    good, body = CONTRIBUTION.wire, CONTRIBUTION.wire[64:]
    yield "nothing", b""
    yield "only a signature", good[:64]
    yield "signature of another message", KEY.sign(body) + body
    yield "no signature", bytes(64) + body
    yield "signature of another record", RETRACTION.wire[:64] + body
    s = int.from_bytes(good[32:64], "little") + GROUP_ORDER
    yield "the same signature, unreduced", good[:32] + s.to_bytes(32, "little") + body
    yield "trailing byte, signed", signed(body + b"\0")
    yield "trailing byte, unsigned", good + b"\0"
    yield "number in more bytes", signed(body.replace(b"\xa3seq\x03", b"\xa3seq\xcc\x03"))
    yield "string in more bytes", signed(body.replace(b"\xa3seq", b"\xd9\x03seq"))
    yield "bytes in more bytes", signed(body.replace(b"\xc4\x20", b"\xc5\x00\x20", 1))
    yield "map in more bytes", signed(b"\xde\x00\x09" + body[1:])
    yield "duplicate key", signed(bytes([body[0] + 1]) + body[1:] + b"\xa3seq\x03")
    yield "too long", signed(body + bytes(4096))
    yield "huge array", signed(body.replace(b"\xa4past\x92", b"\xa4past\xdd\xff\xff\xff\xff"))
    yield "huge map", signed(b"\xdf\xff\xff\xff\xff" + body[1:])
    yield "huge bytes", signed(body.replace(b"\xc4\x20", b"\xc6\xff\xff\xff\xff", 1))
    yield "deep", signed(body.replace(b"\xa4past\x92", b"\xa4past" + b"\x91" * 3500))
    yield "bad text", signed(body.replace(b"contribution", b"contributio\xff"))
