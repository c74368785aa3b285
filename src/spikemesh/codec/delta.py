"""A delta as bytes. `docs/design/wire-format.md` is the specification; this file follows it from top to bottom.

Letters: A coordinate, K sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from spikemesh.codec.quantiser import NUM_CODES, TABLES, Table, dequantise
from spikemesh.crdt import CHUNK_COORDINATES, Delta
from spikemesh.errors import InvalidData
from spikemesh.files.container import HEADER_LENGTH, pack_header
from spikemesh.kernels.delta.codes import MAX_SCALE, num_blocks, pack_codes, quanta, unpack_codes
from spikemesh.kernels.delta.delta import EncodedPositions, decode_positions, encode_positions, fold
from spikemesh.kernels.delta.positions_twin import NOT_CANONICAL, NUM_FORMS, chunk_sizes, num_chunks

FORMAT = "spikemesh.delta.1"

MAX_COORDINATES = 1 << 32
"""Of one run; every size below follows from it."""

MAX_HEADER_BYTES = 512

CHUNK_ENTRY = np.dtype([("form_and_count", "<u4"), ("num_bytes", "<u2")])
"""One per chunk: form << 24 | number of sent coordinates, and the size of its positions."""

Bytes = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class QuantisedDelta:
    """What a delta's bytes say: `codes` [K] and `scales` [ceil(K / 64)] at the ascending coordinates `indices` [K]."""

    num_coordinates: int
    indices: npt.NDArray[np.int64]
    codes: Bytes
    scales: Bytes
    table: Table

    def __post_init__(self) -> None:
        if not 1 <= self.num_coordinates <= MAX_COORDINATES:
            raise ValueError(f"a run has 1..{MAX_COORDINATES} coordinates, got {self.num_coordinates}")
        shapes = self.indices.shape, self.codes.shape, self.scales.shape
        num_sent = self.indices.size
        if shapes != ((num_sent,), (num_sent,), (num_blocks(num_sent),)):
            raise ValueError(f"expected indices [K], codes [K] and scales [ceil(K / 64)], got shapes {shapes}")
        if self.indices.dtype != np.int64 or self.codes.dtype != np.uint8 or self.scales.dtype != np.uint8:
            raise ValueError("expected int64 indices, uint8 codes and uint8 scales")
        if not num_sent:
            return
        if self.indices[0] < 0 or self.indices[-1] >= self.num_coordinates or (np.diff(self.indices) <= 0).any():
            raise ValueError(f"indices must be strictly ascending and lie in 0..{self.num_coordinates - 1}")
        if self.codes.max() >= NUM_CODES or self.scales.max() > MAX_SCALE:
            raise ValueError(f"expected codes below {NUM_CODES} and scales of at most {MAX_SCALE}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QuantisedDelta):
            return NotImplemented
        return encode_delta(self) == encode_delta(other)

    def __hash__(self) -> int:
        return hash(encode_delta(self))

    def to_delta(self) -> Delta:
        """The integers that the merge adds up."""
        return Delta(self.num_coordinates, self.indices, quanta(self.codes, self.scales, self.table.level_array))

    def values(self, grid_exponent: int) -> npt.NDArray[np.float32]:
        """The weight changes [K] at weight 1 that the delta stands for."""
        return dequantise(self.codes, self.scales, self.table, grid_exponent)


@dataclass(frozen=True, eq=False)
class PackedDelta:
    """A delta as the merge takes it: validated, with its codes still two a byte and its positions in 16 bits.

    It is an `Addend`: a sum folds it, without the 12 bytes per sent value that its indices and quanta would take.
    """

    num_coordinates: int
    num_sent: npt.NDArray[np.int64]
    """Per chunk."""
    positions: npt.NDArray[np.uint16]
    """Ascending in each chunk; none of a chunk that sends all it has."""
    codes: Bytes
    scales: Bytes
    table: Table

    def touched(self) -> list[int]:
        return [int(number) for number in np.flatnonzero(self.num_sent)]

    def add(self, weight: int, before: Sequence[Sums], after: Sequence[Sums]) -> None:
        """after = before + weight * what `unpack().to_delta()` says, in the chunks that it touches."""
        levels = self.table.level_array
        fold(
            self.num_sent, self.num_coordinates, self.positions, self.codes, self.scales, levels, weight, before, after
        )

    def unpack(self) -> QuantisedDelta:
        num_sent, read = int(self.num_sent.sum()), 0
        parts = [np.empty(0, np.int64)]
        for chunk, (count, size) in enumerate(zip(self.num_sent, chunk_sizes(self.num_coordinates), strict=True)):
            if count == size:
                local = np.arange(size)
            else:
                local = self.positions[read : read + count].astype(np.int64)
                read += count
            parts.append(local + chunk * CHUNK_COORDINATES)
        codes = unpack_codes(self.codes, num_sent)
        return QuantisedDelta(self.num_coordinates, np.concatenate(parts), codes, self.scales.copy(), self.table)


def max_delta_bytes(num_coordinates: int) -> int:
    """No delta over so many coordinates is larger: the positions never need more than a bitmap does."""
    return (
        HEADER_LENGTH.size
        + MAX_HEADER_BYTES
        + num_chunks(num_coordinates) * CHUNK_ENTRY.itemsize
        + -(-num_coordinates // 2)
        + -(-num_coordinates // 8)
        + num_blocks(num_coordinates)
    )


def encode_delta(delta: QuantisedDelta) -> bytes:
    """The one encoding of `delta`. Its BLAKE3 is the delta hash of a contribution."""
    encoded = encode_positions(delta.indices, delta.num_coordinates)
    chunks = np.empty(len(encoded.forms), CHUNK_ENTRY)
    chunks["form_and_count"] = encoded.forms.astype(np.uint32) << 24 | encoded.num_sent.astype(np.uint32)
    chunks["num_bytes"] = encoded.num_bytes
    parts = [part.tobytes() for part in (chunks, pack_codes(delta.codes), encoded.data, delta.scales)]
    header = _header(delta.num_coordinates, delta.table, [len(part) for part in parts])
    return b"".join((header, *parts))


def decode_delta(data: bytes, *, num_coordinates: int) -> QuantisedDelta:
    """As `read_delta`, for those who look at the values."""
    return read_delta(data, num_coordinates=num_coordinates).unpack()


def read_delta(data: bytes, *, num_coordinates: int) -> PackedDelta:
    """The delta that `data` is the encoding of, in a run of `num_coordinates`; else `InvalidData`.

    This is the validation: what it returns is in range, and `encode_delta` of it is `data` again. Every size is
    checked against `len(data)` or `num_coordinates` before anything is allocated; the memory it takes is at most a
    constant times both.
    """
    if len(data) > max_delta_bytes(num_coordinates):
        raise InvalidData(
            f"a delta over {num_coordinates} coordinates has at most {max_delta_bytes(num_coordinates)} bytes, "
            f"got {len(data)}"
        )
    body = _body_start(data)
    forms, counts, sizes = _read_chunks(data, body, num_coordinates)
    num_sent = int(counts.sum())
    lengths = [len(forms) * CHUNK_ENTRY.itemsize, -(-num_sent // 2), int(sizes.sum()), num_blocks(num_sent)]
    if len(data) - body != sum(lengths):
        raise InvalidData(f"expected {sum(lengths)} bytes for {num_sent} sent values, got {len(data) - body}")
    table = next((t for t in TABLES.values() if _named(t) in data[:body]), None)
    if table is None or data[:body] != _header(num_coordinates, table, lengths):
        raise InvalidData(f"not the header of a {FORMAT} over {num_coordinates} coordinates: {data[8:body]!r:.200}")
    codes, positions, scales = _parts(np.frombuffer(data, np.uint8, offset=body), lengths)
    if len(scales) and int(scales.max()) > MAX_SCALE:
        raise InvalidData(f"a scale byte is at most {MAX_SCALE}, got {scales.max()}")
    found = decode_positions(EncodedPositions(forms, counts, sizes, positions), num_coordinates)
    if num_sent % 2 and codes[-1] >> 4:
        raise InvalidData(NOT_CANONICAL)
    return PackedDelta(num_coordinates, counts, found, codes, scales, table)


def _named(table: Table) -> bytes:
    return f'"table":"{table.name}"'.encode()


def _header(num_coordinates: int, table: Table, lengths: list[int]) -> bytes:
    names = ("chunks", "codes", "positions", "scales")
    metadata = {"coordinates": str(num_coordinates), "format": FORMAT, "table": table.name}
    return pack_header([(name, "U8", (n,), n) for name, n in zip(names, lengths, strict=True)], metadata)


def _parts(body: Bytes, lengths: Sequence[int]) -> list[Bytes]:
    """What comes after the chunk table."""
    ends = list(accumulate(lengths))
    return [body[start:end] for start, end in pairwise(ends)]


def _body_start(data: bytes) -> int:
    if len(data) < HEADER_LENGTH.size:
        raise InvalidData(f"a delta starts with {HEADER_LENGTH.size} bytes of header length, got {len(data)} bytes")
    (length,) = HEADER_LENGTH.unpack_from(data)
    if length > min(MAX_HEADER_BYTES, len(data) - HEADER_LENGTH.size):
        raise InvalidData(f"a header of {length} bytes; {MAX_HEADER_BYTES} are allowed and {len(data)} are here")
    return HEADER_LENGTH.size + int(length)


def _read_chunks(data: bytes, body: int, num_coordinates: int) -> tuple[Bytes, Sums, Sums]:
    """The chunk table: forms, numbers of sent values and of bytes, every entry within its chunk."""
    number = num_chunks(num_coordinates)
    if len(data) - body < number * CHUNK_ENTRY.itemsize:
        raise InvalidData(f"expected a table of {number} chunks, got {len(data) - body} bytes")
    chunks = np.frombuffer(data, CHUNK_ENTRY, number, body)
    forms, counts = chunks["form_and_count"] >> 24, chunks["form_and_count"] & 0xFFFFFF
    if (forms >= NUM_FORMS).any() or (counts > chunk_sizes(num_coordinates)).any():
        raise InvalidData("a chunk of an unknown form, or with more sent values than it has coordinates")
    return forms.astype(np.uint8), counts.astype(np.int64), chunks["num_bytes"].astype(np.int64)
