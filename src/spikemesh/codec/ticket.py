"""A ticket: the text with which somebody joins a run, by copy and paste, e-mail or reading it out.

"spikemesh1" | base32 in small letters, no padding, of: BLAKE3 of the rest (4 bytes) | MessagePack [run id, peer], and
behind them the URLs of the run's buckets if it has some
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, NamedTuple, Protocol

import msgspec
from blake3 import blake3
from msgspec import Meta

from spikemesh.codec.canonical import Hash, Id, encode, parse_canonical
from spikemesh.codec.messages import MAX_ADDRESSES, Address, PeerInfo, Relay, check_peer
from spikemesh.errors import InvalidData, TicketError

PREFIX = "spikemesh1"
CHECKSUM_BYTES = 4
MAX_TICKET_CHARS = 4096
MAX_BUCKETS = 4
MAX_BUCKET_CHARS = 256

BUCKET_KINDS = ("s3", "gs", "gcs", "az", "abfs", "hf", "gdrive")
"""Protocols that a ticket may name: they mean the same on every machine. A path does not, and others (ssh, http, chains
of them) would let a stranger's ticket send us anywhere."""

_BUCKET = re.compile(r"([a-z0-9]+)://[A-Za-z0-9._~/-]+")


class _Ticket(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    run_id: Hash
    id: Id
    addresses: Annotated[tuple[Address, ...], Meta(max_length=MAX_ADDRESSES)]
    relay_url: Relay | None


class _BucketTicket(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    run_id: Hash
    id: Id
    addresses: Annotated[tuple[Address, ...], Meta(max_length=MAX_ADDRESSES)]
    relay_url: Relay | None
    buckets: Annotated[
        tuple[Annotated[str, Meta(max_length=MAX_BUCKET_CHARS)], ...], Meta(min_length=1, max_length=MAX_BUCKETS)
    ]


class Ticket(NamedTuple):
    """What a ticket says: the run, where to find one of its nodes, and the URLs of its buckets."""

    run_id: bytes
    peer: PeerInfo
    buckets: tuple[str, ...] = ()


class Contact(Protocol):
    """What a ticket needs to know of a peer: its id, `ip:port` strings, a relay's URL if it has one."""

    @property
    def id(self) -> bytes: ...
    @property
    def addresses(self) -> tuple[str, ...]: ...
    @property
    def relay_url(self) -> str | None: ...


_TICKET = msgspec.msgpack.Decoder(_Ticket)
_BUCKET_TICKET = msgspec.msgpack.Decoder(_BucketTicket)
_FIVE_FIELDS = b"\x95"  # MessagePack's array of five


def portable(url: str) -> bool:
    """Whether a ticket may carry this bucket's URL: of a kind that everybody can reach, without credentials in it."""
    match = _BUCKET.fullmatch(url)
    return match is not None and match[1] in BUCKET_KINDS and ".." not in url and len(url) <= MAX_BUCKET_CHARS


def encode_ticket(run_id: bytes, peer: Contact, buckets: tuple[str, ...] = ()) -> str:
    """The ticket of run `run_id` with `peer` as the first contact. `ValueError` if it could not be read back."""
    fields = (run_id, peer.id, peer.addresses, peer.relay_url)
    payload = encode(_BucketTicket(*fields, buckets) if buckets else _Ticket(*fields))
    text = PREFIX + base64.b32encode(_checksum(payload) + payload).decode().rstrip("=").lower()
    try:
        decode_ticket(text)
    except TicketError as error:
        raise ValueError(f"no ticket can be made of this run id and address: {error}") from error
    return text


def decode_ticket(text: str) -> Ticket:
    """What the ticket says. `TicketError` tells what is wrong with it; spaces and case do not matter."""
    compact = "".join(text[: 2 * MAX_TICKET_CHARS].split()).lower()
    if not compact.startswith(PREFIX) or len(text) > MAX_TICKET_CHARS:
        raise TicketError(
            f"a ticket is one long word that starts with {PREFIX}, and this is not: {text[:40]!r}. A running node "
            "shows its ticket."
        )
    data = _from_base32(compact.removeprefix(PREFIX))
    checksum, payload = data[:CHECKSUM_BYTES], data[CHECKSUM_BYTES:]
    if checksum != _checksum(payload) or len(checksum) < CHECKSUM_BYTES:
        raise TicketError("this ticket is mistyped or cut off: its checksum does not fit. Copy all of it once more.")
    try:
        decoder: msgspec.msgpack.Decoder[_Ticket | _BucketTicket]
        decoder = _BUCKET_TICKET if payload.startswith(_FIVE_FIELDS) else _TICKET  # type: ignore[assignment]
        ticket = parse_canonical(decoder, payload, "ticket")
        buckets = ticket.buckets if isinstance(ticket, _BucketTicket) else ()
        if not all(map(portable, buckets)):
            raise InvalidData(f"a bucket in a ticket is a plain URL of {', '.join(BUCKET_KINDS)}, got {buckets}")
        peer = PeerInfo(id=ticket.id, addresses=ticket.addresses, relay_url=ticket.relay_url)
        check_peer(peer)
    except InvalidData as error:
        raise TicketError(f"this ticket is whole, but made by another version of spikemesh: {error}") from error
    return Ticket(ticket.run_id, peer, buckets)


def _from_base32(text: str) -> bytes:
    try:
        data = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError) as error:
        raise TicketError(
            "this ticket is mistyped: after its start it has small letters and the digits 2 to 7 only, in groups that "
            "this one cuts off. Copy all of it once more."
        ) from error
    if base64.b32encode(data).decode().rstrip("=").lower() != text:
        raise TicketError("this ticket is mistyped in its last letter. Copy all of it once more.")
    return data


def _checksum(payload: bytes) -> bytes:
    return blake3(PREFIX.encode() + payload).digest(length=CHECKSUM_BYTES)
