"""MessagePack with one encoding per value, and the decoding that accepts no other."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from spikemesh.errors import InvalidData

T = TypeVar("T")

ID_BYTES = 32
HASH_BYTES = 32

Id = Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
Hash = Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]

_ENCODER = msgspec.msgpack.Encoder(order="deterministic")


def encode(value: object) -> bytes:
    """The canonical bytes of a struct: fields in their order, maps by key, every number in its shortest form."""
    return _ENCODER.encode(value)


def parse(decoder: msgspec.msgpack.Decoder[T], data: bytes, what: str) -> T:
    """What `data` says, by the decoder's types; `InvalidData` if it is not that."""
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise InvalidData(f"not a {what}: {str(error) or type(error).__name__:.200}") from error


def parse_canonical(decoder: msgspec.msgpack.Decoder[T], data: bytes, what: str) -> T:
    """As `parse`, and `data` must be the canonical encoding, so that equal values have equal hashes."""
    value = parse(decoder, data, what)
    if encode(value) != data:
        raise InvalidData(f"a {what} must have its canonical encoding, and this is another one")
    return value


def ascending(items: Iterable[Any]) -> bool:
    """Strictly: sorted, no two equal."""
    return all(a < b for a, b in pairwise(items))
