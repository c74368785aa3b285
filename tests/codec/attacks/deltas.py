"""Attacks on `decode_delta`. Each is a delta over NUM_COORDINATES that MUST be refused, by what it breaks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
from tests.codec.examples import CHUNK, DELTA

from spikemesh.codec import encode_delta
from spikemesh.files.container import pack_header

NUM_COORDINATES = DELTA.num_coordinates

GOOD = encode_delta(DELTA)
BODY = 8 + int.from_bytes(GOOD[:8], "little")

Chunk = tuple[int, int, int]
"""form, count, bytes of positions."""

RICE_2 = 4


def build(
    *,
    chunks: Sequence[Chunk] = ((RICE_2, 5, 3),),
    codes: bytes = bytes.fromhex("f0870a"),
    positions: bytes = bytes.fromhex("b22c24"),
    scales: bytes = b"\x1d",
    metadata: dict[str, str] | None = None,
) -> bytes:
    """A delta with a header that fits its parts."""
    table = b"".join(
        (form << 24 | count).to_bytes(4, "little") + size.to_bytes(2, "little") for form, count, size in chunks
    )
    parts = {"chunks": table, "codes": codes, "positions": positions, "scales": scales}
    metadata = metadata or {"coordinates": "40", "format": "spikemesh.delta.1", "table": "topk"}
    header = pack_header([(name, "U8", (len(part),), len(part)) for name, part in parts.items()], metadata)
    return header + b"".join(parts.values())


def large(count: int, form: int, positions: bytes) -> bytes:
    """A delta over one whole chunk, so that only the positions are wrong with it."""
    return build(
        chunks=((form, count, len(positions)),),
        codes=bytes(-(-count // 2)),
        positions=positions,
        scales=bytes(-(-count // 64)),
        metadata={"coordinates": str(CHUNK), "format": "spikemesh.delta.1", "table": "topk"},
    )


def large_attacks() -> Iterator[tuple[str, bytes]]:
    """Attacks over CHUNK coordinates."""
    yield "one value behind a long unary run", large(1, 2, bytes(8191) + b"\x80")
    yield "one value behind the longest unary run", large(1, 2, bytes(0xFFFE) + b"\x80")
    yield "a unary run without end", large(1, 2, bytes(0xFFFF))
    yield "many unary runs without end", large(1000, 2, bytes(0xFFFF))
    yield "largest gap of k = 15", large(1, 17, b"\xff\xff\x80")
    yield "gaps that add up to more than the chunk", large(8, 17, b"\xff" * 16)
    yield "padding of a kilobyte", large(1, 2, b"\x01" + bytes(1024))
    yield "65535 ones", large(CHUNK, 2, b"\xff" * 0xFFFF)
    yield "everything as a bitmap", large(CHUNK, 1, b"\xff" * 8192)
    yield "everything as gaps", large(CHUNK, 2, b"\xff" * 8192)
    yield "a bitmap of one more", large(CHUNK, 1, b"\xff" * 8192 + b"\x01")
    yield "half of it as gaps of k = 0", large(CHUNK // 2, 2, b"\xaa" * 8192)
    yield "low parts longer than the bytes", large(CHUNK // 2, 17, bytes(100))


def with_header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text + GOOD[BODY:]


def attacks() -> Iterator[tuple[str, bytes]]:
    yield from _headers()
    yield from _sizes()
    yield from _positions()
    yield from _values()


def _headers() -> Iterator[tuple[str, bytes]]:
    text, rest = GOOD[8:BODY], GOOD[BODY:]
    header = json.loads(text)
    for length in (0, 1, len(text) - 8, len(text) + 8, 512, 513, 1 << 32, 1 << 63, (1 << 64) - 1):
        yield f"header of {length} bytes", length.to_bytes(8, "little") + text + rest
    yield "no padding", with_header(text.rstrip())
    yield "more padding", with_header(text + b" " * 8)
    yield "padding with newlines", with_header(text.rstrip() + b"\n" * (len(text) - len(text.rstrip())))
    yield "padding in front", with_header(b"      " + text.rstrip())
    yield "spaces inside", with_header(json.dumps(header).encode())
    yield (
        "other order of tensors",
        with_header(json.dumps(dict(reversed(header.items())), separators=(",", ":")).encode()),
    )
    yield "duplicate key", with_header(text.replace(b'"shape":[1],', b'"shape":[1],"shape":[1],'))
    yield (
        "duplicate tensor",
        with_header(text.replace(b'},"scales"', b'},"codes":{"dtype":"U8","shape":[3],"data_offsets":[6,9]},"scales"')),
    )
    yield "escaped name", with_header(text.replace(b'"codes"', b'"\\u0063odes"'))
    yield "overlapping tensors", with_header(text.replace(b"[9,12]", b"[6,12]"))
    yield "other shape", with_header(text.replace(b'"shape":[6]', b'"shape":[2,3]'))
    yield "other element", with_header(text.replace(b'"U8"', b'"I8"', 1))
    yield "empty header", with_header(b"{}")
    yield "no JSON", with_header(b"\xff" * 320)
    yield "deep JSON", with_header(b"[" * 512)
    good = {"coordinates": "40", "format": "spikemesh.delta.1", "table": "topk"}
    for key, value in (
        ("coordinates", "41"),
        ("coordinates", "040"),
        ("coordinates", "-40"),
        ("format", "spikemesh.delta.2"),
        ("table", "nf4"),
        ("table", ""),
        ("more", "x"),
    ):
        yield f"metadata {key}={value}", build(metadata={**good, key: value})
    yield "metadata without table", build(metadata={"coordinates": "40", "format": "spikemesh.delta.1"})


def _sizes() -> Iterator[tuple[str, bytes]]:
    yield "nothing", b""
    yield "trailing zero", GOOD + b"\0"
    yield "twice", GOOD + GOOD
    yield "a megabyte behind it", GOOD + bytes(1 << 20)
    yield "no chunks", build(chunks=())
    yield "a chunk too many", build(chunks=((RICE_2, 5, 3), (2, 0, 0)))
    for count in (0, 4, 6, 40, 41, CHUNK, 0xFFFFFF):
        yield f"{count} sent", build(chunks=((RICE_2, count, 3),))
    for count in (41, CHUNK, 0xFFFFFF):
        sent = {"codes": bytes(-(-count // 2)), "scales": bytes(-(-count // 64))}
        yield f"{count} sent, with their codes", build(chunks=((0, count, 0),), positions=b"", **sent)
    for size in (0, 2, 4, 0xFFFF):
        yield f"{size} bytes of positions in the table", build(chunks=((RICE_2, 5, size),))
    yield (
        "65535 bytes of positions",
        build(chunks=((RICE_2, 5, 0xFFFF),), positions=b"\xb2\x2c\x24" + bytes(0xFFFF - 3)),
    )
    yield "a code too many", build(codes=bytes.fromhex("f0870a00"))
    yield "a scale too many", build(scales=b"\x1d\x1d")
    yield "no scale", build(scales=b"")
    yield "a position byte too many", build(positions=bytes.fromhex("b22c2400"), chunks=((RICE_2, 5, 4),))


def _positions() -> Iterator[tuple[str, bytes]]:
    bitmap = np.packbits(np.isin(np.arange(40), DELTA.indices), bitorder="little").tobytes()
    yield "bitmap where gaps are smaller", build(chunks=((1, 5, 5),), positions=bitmap)
    yield "full with too few", build(chunks=((0, 5, 3),))
    yield (
        "full with bytes",
        build(chunks=((0, 40, 3),), codes=bytes(20), positions=bytes.fromhex("b22c24"), scales=b"\x00"),
    )
    for k in range(16):
        if 2 + k != RICE_2:
            yield f"the same bytes as k = {k}", build(chunks=((2 + k, 5, 3),))
    for form in (18, 19, 255):
        yield f"form {form}", build(chunks=((form, 5, 3),))
    # k = 3 in 3 bytes says the same positions and ties with k = 2: the lower form is the canonical one
    gaps = [2, 0, 7, 18, 8]
    bits = [gap >> b & 1 for gap in gaps for b in range(3)] + [b for gap in gaps for b in [0] * (gap >> 3) + [1]]
    yield "k = 3 of equal size", build(chunks=((5, 5, 3),), positions=np.packbits(bits, bitorder="little").tobytes())
    yield "padding bits set", build(positions=bytes.fromhex("b22c64"))
    yield "a unary run without end", build(chunks=((2, 5, 5),), positions=bytes(5))
    yield "a unary run past the chunk", build(chunks=((2, 1, 6),), codes=b"\x08", positions=b"\0\0\0\0\0\x80")
    yield "largest gap", build(chunks=((17, 1, 3),), codes=b"\x08", positions=b"\xff\xff\x80")
    yield "long unary run", build(chunks=((2, 1, 0xFFFF),), codes=b"\x08", positions=bytes(0xFFFE) + b"\x80")
    yield "all ones", build(chunks=((2, 5, 3),), positions=b"\xff\xff\xff")
    yield (
        "bitmap past the end",
        build(chunks=((1, 20, 6),), codes=bytes(10), positions=b"\xff\xff\x0f\0\0\0", scales=b"\x00"),
    )
    yield "empty as a bitmap", build(chunks=((1, 0, 5),), codes=b"", positions=bytes(5), scales=b"")
    yield "empty as k = 1", build(chunks=((3, 0, 0),), codes=b"", positions=b"", scales=b"")
    yield "empty as full", build(chunks=((0, 0, 0),), codes=b"", positions=b"", scales=b"")


def _values() -> Iterator[tuple[str, bytes]]:
    yield "unused half of the last code", build(codes=bytes.fromhex("f0871a"))
    for scale in (136, 255):
        yield f"scale {scale}", build(scales=bytes([scale]))
