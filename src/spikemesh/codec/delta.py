"""A delta as bytes. `docs/design/wire-format.md` is the specification; this file follows it from top to bottom.

Letters: A coordinate, K sent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spikemesh.codec import rice
from spikemesh.codec.quantiser import MAX_SCALE, NUM_CODES, TABLES, Table, dequantise, num_blocks, quanta
from spikemesh.crdt import CHUNK_COORDINATES, Delta
from spikemesh.errors import InvalidData
from spikemesh.files.container import HEADER_LENGTH, pack_header

FORMAT = "spikemesh.delta.1"

MAX_COORDINATES = 1 << 32
"""Of one run; every size below follows from it."""

MAX_HEADER_BYTES = 512

CHUNK_ENTRY = np.dtype([("form_and_count", "<u4"), ("num_bytes", "<u2")])
"""One per chunk: form << 24 | number of sent coordinates, and the size of its positions."""

Bytes = npt.NDArray[np.uint8]


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
        return Delta(self.num_coordinates, self.indices, quanta(self.codes, self.scales, self.table))

    def values(self, grid_exponent: int) -> npt.NDArray[np.float32]:
        """The weight changes [K] at weight 1 that the delta stands for."""
        return dequantise(self.codes, self.scales, self.table, grid_exponent)


def max_delta_bytes(num_coordinates: int) -> int:
    """No delta over so many coordinates is larger: the positions never need more than a bitmap does."""
    return (
        HEADER_LENGTH.size
        + MAX_HEADER_BYTES
        + _num_chunks(num_coordinates) * CHUNK_ENTRY.itemsize
        + -(-num_coordinates // 2)
        + -(-num_coordinates // 8)
        + num_blocks(num_coordinates)
    )


def encode_delta(delta: QuantisedDelta) -> bytes:
    """The one encoding of `delta`. Its BLAKE3 is the delta hash of a contribution."""
    num_chunks = _num_chunks(delta.num_coordinates)
    starts = np.arange(num_chunks + 1, dtype=np.int64) * CHUNK_COORDINATES
    bounds = np.searchsorted(delta.indices, starts)
    chunks = np.empty(num_chunks, CHUNK_ENTRY)
    positions = []
    for number, size in enumerate(_chunk_sizes(delta.num_coordinates)):
        local = delta.indices[bounds[number] : bounds[number + 1]] - starts[number]
        form, data = rice.encode_positions(local, int(size))
        chunks[number] = (form << 24 | len(local), len(data))
        positions.append(data.tobytes())
    parts = (chunks.tobytes(), _pack_codes(delta.codes).tobytes(), b"".join(positions), delta.scales.tobytes())
    header = _header(delta.num_coordinates, delta.table, [len(part) for part in parts])
    return b"".join((header, *parts))


def decode_delta(data: bytes, *, num_coordinates: int) -> QuantisedDelta:
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
    chunks = _read_chunks(data, body, num_coordinates)
    forms = (chunks["form_and_count"] >> 24).astype(np.int64)
    counts = (chunks["form_and_count"] & 0xFFFFFF).astype(np.int64)
    num_sent, sizes = int(counts.sum()), chunks["num_bytes"].astype(np.int64)
    lengths = [chunks.nbytes, -(-num_sent // 2), int(sizes.sum()), num_blocks(num_sent)]
    if len(data) - body != sum(lengths):
        raise InvalidData(f"expected {sum(lengths)} bytes for {num_sent} sent values, got {len(data) - body}")
    table = next((t for t in TABLES.values() if data[:body] == _header(num_coordinates, t, lengths)), None)
    if table is None:
        raise InvalidData(f"not the header of a {FORMAT} over {num_coordinates} coordinates: {data[8:body]!r:.200}")
    _, packed, positions, scales = np.split(np.frombuffer(data, np.uint8, offset=body), np.cumsum(lengths)[:-1])
    if len(scales) and int(scales.max()) > MAX_SCALE:
        raise InvalidData(f"a scale byte is at most {MAX_SCALE}, got {scales.max()}")
    delta = QuantisedDelta(
        num_coordinates,
        _decode_indices(forms, counts, sizes, positions, num_coordinates),
        _unpack_codes(packed, num_sent),
        scales.copy(),
        table,
    )
    if encode_delta(delta) != data:
        raise InvalidData("a delta must have its smallest, canonical encoding, and this is another one")
    return delta


def _header(num_coordinates: int, table: Table, lengths: list[int]) -> bytes:
    names = ("chunks", "codes", "positions", "scales")
    metadata = {"coordinates": str(num_coordinates), "format": FORMAT, "table": table.name}
    return pack_header([(name, "U8", (n,), n) for name, n in zip(names, lengths, strict=True)], metadata)


def _body_start(data: bytes) -> int:
    if len(data) < HEADER_LENGTH.size:
        raise InvalidData(f"a delta starts with {HEADER_LENGTH.size} bytes of header length, got {len(data)} bytes")
    (length,) = HEADER_LENGTH.unpack_from(data)
    if length > min(MAX_HEADER_BYTES, len(data) - HEADER_LENGTH.size):
        raise InvalidData(f"a header of {length} bytes; {MAX_HEADER_BYTES} are allowed and {len(data)} are here")
    return HEADER_LENGTH.size + int(length)


def _read_chunks(data: bytes, body: int, num_coordinates: int) -> npt.NDArray[np.void]:
    """The chunk table, every entry within its chunk."""
    num_chunks = _num_chunks(num_coordinates)
    if len(data) - body < num_chunks * CHUNK_ENTRY.itemsize:
        raise InvalidData(f"expected a table of {num_chunks} chunks, got {len(data) - body} bytes")
    chunks = np.frombuffer(data, CHUNK_ENTRY, num_chunks, body)
    word = chunks["form_and_count"]
    if (word >> 24 >= rice.NUM_FORMS).any() or (word & 0xFFFFFF > _chunk_sizes(num_coordinates)).any():
        raise InvalidData("a chunk of an unknown form, or with more sent values than it has coordinates")
    return chunks


def _decode_indices(
    forms: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    data: Bytes,
    num_coordinates: int,
) -> npt.NDArray[np.int64]:
    indices = np.empty(int(counts.sum()), np.int64)
    done = read = 0
    for number, chunk_size in enumerate(_chunk_sizes(num_coordinates)):
        count, size = int(counts[number]), int(sizes[number])
        local = rice.decode_positions(int(forms[number]), data[read : read + size], count, int(chunk_size))
        indices[done : done + count] = local + number * CHUNK_COORDINATES
        done, read = done + count, read + size
    return indices


def _pack_codes(codes: Bytes) -> Bytes:
    """Two codes a byte, the first in the low half; an unused half is zero."""
    pairs = np.pad(codes, (0, len(codes) % 2)).reshape(-1, 2)
    packed: Bytes = pairs[:, 0] | pairs[:, 1] << np.uint8(4)
    return packed


def _unpack_codes(packed: Bytes, num_sent: int) -> Bytes:
    codes = np.empty((len(packed), 2), np.uint8)
    codes[:, 0], codes[:, 1] = packed & 15, packed >> 4
    return codes.reshape(-1)[:num_sent]


def _num_chunks(num_coordinates: int) -> int:
    return -(-num_coordinates // CHUNK_COORDINATES)


def _chunk_sizes(num_coordinates: int) -> npt.NDArray[np.int64]:
    sizes = np.full(_num_chunks(num_coordinates), CHUNK_COORDINATES, np.int64)
    sizes[-1] = num_coordinates - (len(sizes) - 1) * CHUNK_COORDINATES
    return sizes
