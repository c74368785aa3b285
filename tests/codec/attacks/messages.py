"""Attacks on `decode_message`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

H, I = bytes(32), b"\x01" * 32  # noqa: E741
PEER = {"id": I, "addresses": ["127.0.0.1:4000"], "relay_url": None}
MIB = 1 << 20


def attacks() -> Iterator[tuple[str, bytes]]:
    for kind, fields in _fields():
        yield f"{kind} {fields!r:.60}", msgspec.msgpack.encode({"type": kind, **fields})
    yield "nothing", b""
    yield "nil", b"\xc0"
    yield "no type", msgspec.msgpack.encode({"run_id": H})
    yield "record as a message", msgspec.msgpack.encode({"type": "contribution"})
    yield "two messages", msgspec.msgpack.encode({"type": "get_genesis", "run_id": H}) * 2
    yield "five megabytes", msgspec.msgpack.encode({"type": "blob", "data": bytes(5 * MIB), "total_bytes": 5 * MIB})
    yield "a million peers", b"\x82\xa4type\xa7welcome\xa5peers\xdd\x00\x10\x00\x00" + b"\x80" * MIB
    yield "four billion peers", b"\x82\xa4type\xa7welcome\xa5peers\xdd\xff\xff\xff\xff"
    yield "a million empty records", _sync(b"\xa7records\xdd\x00\x10\x00\x00" + b"\xc4\x00" * MIB)
    yield "a million rows", _sync(b"\xa5table\xdd\x00\x10\x00\x00" + b"\x92\x93\xc4\x00\x00\x90\xc4\x00" * (MIB // 2))
    yield "deep", _sync(b"\xa5table" + b"\x91" * MIB)
    yield "deep unknown", _sync(b"\xa4more" + b"\x91" * MIB)
    yield "bad text", b"\x81\xa4type\xa2\xff\xfe"


def _sync(last: bytes) -> bytes:
    return b"\x84\xa4type\xa4sync\xaaset_digest\xc4\x20" + H + b"\xaasum_digest\xc4\x20" + H + last


def _fields() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "hello", {"run_id": H[:31], "address": PEER, "version": 2}
    for version in (0, 1, 3, -1, 1 << 20, "1"):
        yield "hello", {"run_id": H, "address": PEER, "version": version}
    for change in (
        {"id": b""},
        {"addresses": ["127.0.0.1:1"] * 17},
        {"relay_url": "x"},
        {"relay_url": "https://" + "x" * 300},
        {"relay_url": "https://a b"},
        {"relay_url": "https://\n"},
        {"relay_url": "https://\u00e9"},
        {"more": 1},
    ):
        yield "hello", {"run_id": H, "address": {**PEER, **change}, "version": 2}
    for address in (
        "",
        ":",
        "1.2.3.4",
        "1.2.3.4:",
        "1.2.3.4:0",
        "1.2.3.4:65536",
        "1.2.3.4:+1",
        "1.2.3.4: 1",
        "1.2.3.4:01",
        "1.2.3.4:\u0661",
        "01.2.3.4:1",
        "1.2.3:1",
        "localhost:1",
        "::1:1",
        "[1.2.3.4]:1",
        "[::1]",
        "[::0001]:1",
        "[[::1]]:1",
        "1.2.3.4:1\n",
        "[" + "1:" * 40 + ":1]:1",
    ):
        yield "welcome", {"peers": [{**PEER, "addresses": [address]}]}
    yield "welcome", {"peers": [PEER] * 65}
    yield "get_blob", {"hash": H, "offset": -1, "length": 1}
    yield "get_blob", {"hash": H, "offset": 1 << 41, "length": 1}
    yield "get_blob", {"hash": H, "offset": 0, "length": 0}
    yield "get_blob", {"hash": H, "offset": 0, "length": 4 * MIB + 1}
    yield "get_blob", {"hash": H + b"\0", "offset": 0, "length": 1}
    yield "get_blob", {"hash": H, "offset": 0.0, "length": 1}
    yield "blob", {"data": bytes(4 * MIB + 1), "total_bytes": 8 * MIB}
    yield "blob", {"data": bytes(2), "total_bytes": 1}
    yield "genesis", {"data": bytes(MIB + 1)}
    yield (
        "snapshot",
        {"set_digest": H, "sum_digest": H, "records_hash": H, "records_bytes": 0, "chunk_hashes": [H] * 65_537},
    )
    snapshot = {"set_digest": H, "sum_digest": H, "records_hash": H, "records_bytes": 0, "chunk_hashes": [H]}
    for change in (
        {"records_bytes": -1},
        {"chunk_hashes": []},
        {"chunk_hashes": [H[1:]]},
        {"chunk_hashes": [H] * 65_537},
    ):
        yield "snapshot", {**snapshot, **change}
    yield "vouched", {"sum_digest": b""}
    yield "refused", {"reason": "x" * 33, "text": ""}
    yield "refused", {"reason": "x", "text": "x" * 1025}
    yield from (("sync", {"set_digest": H, "sum_digest": H, **change}) for change in _sync_changes())


def _sync_changes() -> Iterator[dict[str, Any]]:
    yield {"set_digest": b""}
    yield {"sum_digest": H + b"\0"}
    yield {"records": [b""]}
    yield {"records": [bytes(4097)]}
    yield {"records": [bytes(4096)] * 257}
    yield {"records": [b"x"] * 8193}
    yield {"table": [[[I, 1, []], b""]]}
    yield {"table": [[[I, 1, []], H], [[I, 1, []], H]]}
    yield {"table": [[[I, 1, []], H], [[H, 1, []], H]]}
    yield {"table": [[[I, 0, []], H]]}
    yield {"start": "again"}
    yield {"start": 1}
    yield {"complete": ["A"]}
    yield {"complete": ["0" * 65]}
    yield {"complete": ["0\n"]}
    yield {"complete": [""] * 65_537}
    yield {"branches": [["", [bytes(16)] * 15]]}
    yield {"branches": [["", [bytes(16)] * 15 + [bytes(17)]]]}
    yield {"branches": [["0" * 64, [bytes(16)] * 16]]}
    yield {"branches": [["g", [bytes(16)] * 16]]}
    yield {"branches": [["", [bytes(16)] * 16]] * 257}
    yield {"table": [[[I, 1, [2]], H]]}
    yield {"table": [[[I, 1, []], H, 0]]}
    yield {"table": [[[n.to_bytes(32, "big"), 1, []], b""] for n in range(65_537)]}
