"""Records and the genesis as bytes: encoded one way, signed, and validated in one place before anybody looks at them.

record on the wire = Ed25519 signature (64 bytes) of DOMAIN + body | body (canonical MessagePack)
record id          = BLAKE3(body)
run id             = BLAKE3(canonical MessagePack of the genesis)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from spikemesh.codec.canonical import HASH_BYTES, ID_BYTES, ascending, encode, parse_canonical
from spikemesh.codec.delta import MAX_COORDINATES, max_delta_bytes
from spikemesh.crdt import MAX_SEQ, WEIGHT_ONE, CausalContext, Contribution, Genesis, PastEntry, Record
from spikemesh.crdt.records import Body, Scalar
from spikemesh.errors import InvalidData

DOMAIN = b"spikemesh/1 record\0"
SIGNATURE_BYTES = 64

MAX_RECORD_BYTES = 4096
"""Signature and body together."""

MAX_PAST = 64
"""Authors in a record's past."""

MAX_EXTRAS = 128
"""Sequence numbers beyond the prefixes in a record's past, all authors together."""

MAX_TOKENS = 1 << 48
MAX_BLOB_BYTES = 1 << 40

MAX_GENESIS_BYTES = 1 << 20
MAX_TENSORS = 65_536
MAX_ELEMENTS = 1 << 40
MAX_DIMENSIONS = 8
MAX_NAME_CHARS = 256
MAX_SETTINGS = 256
MAX_SETTING_CHARS = 1024
GRID_EXPONENTS = range(-64, 1)

_BODY: msgspec.msgpack.Decoder[Body] = msgspec.msgpack.Decoder(Body)
_GENESIS = msgspec.msgpack.Decoder(Genesis)


def sign_record(body: Body, private_key: Ed25519PrivateKey) -> Record:
    """The record of `body`, signed by its author. `ValueError` for a body that no peer would accept."""
    data = encode(body)
    public_key = private_key.public_key().public_bytes_raw()
    if body.author != public_key:
        raise ValueError(f"the author {body.author.hex()[:8]} is not the key that signs, {public_key.hex()[:8]}")
    for flaw in _body_flaws(body):
        raise ValueError(flaw)
    wire = private_key.sign(DOMAIN + data) + data
    if len(wire) > MAX_RECORD_BYTES:
        raise ValueError(
            f"a record has at most {MAX_RECORD_BYTES} bytes and this one {len(wire)}: name fewer targets in it, "
            "and make its past with `bounded_past`"
        )
    return Record(blake3(data).digest(), body, wire)


def decode_record(wire: bytes, *, run_id: bytes) -> Record:
    """The record that `wire` is, of this run, canonical, in range and signed by its author; else `InvalidData`."""
    if not SIGNATURE_BYTES < len(wire) <= MAX_RECORD_BYTES:
        raise InvalidData(f"a record has {SIGNATURE_BYTES + 1}..{MAX_RECORD_BYTES} bytes, got {len(wire)}")
    signature, data = wire[:SIGNATURE_BYTES], wire[SIGNATURE_BYTES:]
    body = parse_canonical(_BODY, data, "record")
    if body.run_id != run_id:
        raise InvalidData(f"a record of another run, {body.run_id[:4].hex()}, than this one, {run_id[:4].hex()}")
    for flaw in _body_flaws(body):
        raise InvalidData(flaw)
    try:
        Ed25519PublicKey.from_public_bytes(body.author).verify(signature, DOMAIN + data)
    except (InvalidSignature, ValueError) as error:
        raise InvalidData(f"the record's signature is not one of its author, {body.author.hex()[:8]}") from error
    return Record(blake3(data).digest(), body, wire)


def bounded_past(context: CausalContext, author: bytes, limit: int = MAX_PAST) -> tuple[PastEntry, ...]:
    """What a record of `author` says of `context`: its own entry and those of the `limit - 1` most advanced authors.

    Leaving entries out is always true: the past names what was seen, and never claims that the rest was not.
    """
    entries = sorted(context.entries(), key=lambda e: (e.author != author, -context.last(e.author), e.author))[:limit]
    bounded, room = [], MAX_EXTRAS
    for entry in entries:
        kept = PastEntry(entry.author, entry.prefix, entry.extras[:room])
        room -= len(kept.extras)
        if kept.prefix or kept.extras:
            bounded.append(kept)
    return tuple(sorted(bounded, key=lambda e: e.author))


def encode_genesis(genesis: Genesis) -> bytes:
    """The canonical bytes. `ValueError` for a genesis that no peer would accept."""
    for flaw in _genesis_flaws(genesis):
        raise ValueError(flaw)
    data = encode(genesis)
    if len(data) > MAX_GENESIS_BYTES:
        raise ValueError(f"a genesis has at most {MAX_GENESIS_BYTES} bytes, got {len(data)}")
    return data


def decode_genesis(data: bytes) -> Genesis:
    """The genesis that `data` is the canonical encoding of, everything in range; else `InvalidData`."""
    if len(data) > MAX_GENESIS_BYTES:
        raise InvalidData(f"a genesis has at most {MAX_GENESIS_BYTES} bytes, got {len(data)}")
    genesis = parse_canonical(_GENESIS, data, "genesis")
    for flaw in _genesis_flaws(genesis):
        raise InvalidData(flaw)
    return genesis


def run_id(genesis: Genesis) -> bytes:
    """The name of the run that `genesis` describes."""
    return blake3(encode_genesis(genesis)).digest()


def past_flaws(past: tuple[PastEntry, ...], max_entries: int, max_extras: int) -> Iterator[str]:
    """What is wrong with the listing of a causal context: each set of numbers has one listing, and is not empty."""
    if len(past) > max_entries or sum(len(entry.extras) for entry in past) > max_extras:
        yield f"a causal context of more than {max_entries} authors or {max_extras} extra numbers"
    if not ascending([entry.author for entry in past]):
        yield "authors of a causal context must be strictly ascending"
    for entry in past:
        lowest, extras = entry.prefix + 2, entry.extras
        if len(entry.author) != ID_BYTES or not 0 <= entry.prefix <= MAX_SEQ or not (entry.prefix or extras):
            yield f"an entry of a causal context needs {ID_BYTES} bytes of author and numbers in 1..{MAX_SEQ}"
        elif entry.extras and not (
            lowest <= entry.extras[0] and entry.extras[-1] <= MAX_SEQ and ascending(entry.extras)
        ):
            yield f"extras must be strictly ascending, from {lowest} to {MAX_SEQ} after a prefix of {entry.prefix}"


def _body_flaws(body: Body) -> Iterator[str]:
    yield from _lengths({"run_id": (body.run_id, HASH_BYTES), "author": (body.author, ID_BYTES)})
    yield from _outside("seq", body.seq, 1, MAX_SEQ)
    yield from past_flaws(body.past, MAX_PAST, MAX_EXTRAS)
    for entry in body.past:
        if entry.author == body.author and max(entry.extras, default=entry.prefix) >= body.seq:
            yield f"record {body.seq} of {body.author.hex()[:8]} has itself, or a later one, in its past"
    if isinstance(body, Contribution):
        yield from _outside("weight", body.weight, 1, WEIGHT_ONE)
        yield from _lengths({"delta_hash": (body.delta_hash, HASH_BYTES)})
        yield from _outside("delta_bytes", body.delta_bytes, 1, max_delta_bytes(MAX_COORDINATES))
        yield from _outside("num_tokens", body.num_tokens, 0, MAX_TOKENS)
    else:
        if not body.targets or not ascending(body.targets):
            yield "targets of a retraction must be at least one, and strictly ascending"
        yield from _lengths({f"target {n}": (target, HASH_BYTES) for n, target in enumerate(body.targets)})


def _genesis_flaws(genesis: Genesis) -> Iterator[str]:
    yield from _outside("length of the run's name", len(genesis.name), 1, MAX_NAME_CHARS)
    yield from _lengths({"founder": (genesis.founder, ID_BYTES), "init_hash": (genesis.init_hash, HASH_BYTES)})
    yield from _outside("init_bytes", genesis.init_bytes, 1, MAX_BLOB_BYTES)
    yield from _outside("grid_exponent", genesis.grid_exponent, GRID_EXPONENTS[0], GRID_EXPONENTS[-1])
    yield from _setting_flaws("model", genesis.model)
    yield from _setting_flaws("recipe", genesis.recipe)
    yield from _outside("number of tensors", len(genesis.tensors), 1, MAX_TENSORS)
    if not ascending([spec.name for spec in genesis.tensors]):
        yield "tensor names must be strictly ascending"
    for spec in genesis.tensors:
        yield from _outside("length of a tensor's name", len(spec.name), 1, MAX_NAME_CHARS)
        yield from _outside("number of a tensor's dimensions", len(spec.shape), 0, MAX_DIMENSIONS)
        if not all(1 <= size <= MAX_ELEMENTS for size in spec.shape) or math.prod(spec.shape) > MAX_ELEMENTS:
            yield f"tensor {spec.name:.64} must have 1..{MAX_ELEMENTS} elements"
        elif spec.num_coordinates != math.prod(spec.shape) and not spec.masked:
            yield f"tensor {spec.name:.64} has no mask and must contribute all of its elements"
        else:
            yield from _outside("coordinates of a tensor", spec.num_coordinates, 0, math.prod(spec.shape))
    yield from _outside("number of coordinates", genesis.num_coordinates, 1, MAX_COORDINATES)


def _setting_flaws(what: str, settings: dict[str, Scalar]) -> Iterator[str]:
    yield from _outside(f"number of {what} settings", len(settings), 0, MAX_SETTINGS)
    for key, value in settings.items():
        yield from _outside(f"length of a {what} setting's name", len(key), 1, MAX_NAME_CHARS)
        if isinstance(value, str):
            yield from _outside(f"length of {what} setting {key:.64}", len(value), 0, MAX_SETTING_CHARS)
        elif not math.isfinite(value) or (abs(value) >= 1 << 63 and isinstance(value, int)):
            yield f"{what} setting {key:.64} must be a finite number of 64 bits"


def _outside(what: str, value: int, lowest: int, highest: int) -> Iterator[str]:
    if not lowest <= value <= highest:
        yield f"{what} must lie in {lowest}..{highest}, got {value}"


def _lengths(fields: dict[str, tuple[bytes, int]]) -> Iterator[str]:
    for name, (value, num_bytes) in fields.items():
        if len(value) != num_bytes:
            yield f"{name} must have {num_bytes} bytes, got {len(value)}"


def pack_wires(wires: Iterable[bytes]) -> bytes:
    """Records one after the other, each behind its length in two bytes, the low one first."""
    return b"".join(len(wire).to_bytes(2, "little") + wire for wire in wires)


def unpack_wires(data: bytes) -> Iterator[bytes]:
    """What `pack_wires` was given. Not validated beyond their lengths: that is for `decode_record`."""
    start = 0
    while start < len(data):
        end = start + 2 + int.from_bytes(data[start : start + 2], "little")
        if not start + 2 < end <= len(data) or end - start - 2 > MAX_RECORD_BYTES:
            raise InvalidData(f"packed records break off, or one is longer than {MAX_RECORD_BYTES} bytes, at {start}")
        yield data[start + 2 : end]
        start = end
