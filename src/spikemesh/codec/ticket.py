"""A ticket: the text with which somebody joins a run, by copy and paste, e-mail or reading it out.

"spikemesh1" | base32 in small letters, no padding, of: BLAKE3 of the rest (4 bytes) | MessagePack [run id, peer]
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Protocol

import msgspec
from blake3 import blake3
from msgspec import Meta

from spikemesh.codec.canonical import Hash, Id, encode, parse_canonical
from spikemesh.codec.messages import MAX_ADDRESSES, Address, PeerInfo, Relay, check_peer
from spikemesh.errors import InvalidData, TicketError

PREFIX = "spikemesh1"
CHECKSUM_BYTES = 4
MAX_TICKET_CHARS = 4096


class _Ticket(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    run_id: Hash
    id: Id
    addresses: Annotated[tuple[Address, ...], Meta(max_length=MAX_ADDRESSES)]
    relay_url: Relay | None


class Contact(Protocol):
    """What a ticket needs to know of a peer: its id, `ip:port` strings, a relay's URL if it has one."""

    @property
    def id(self) -> bytes: ...
    @property
    def addresses(self) -> tuple[str, ...]: ...
    @property
    def relay_url(self) -> str | None: ...


_TICKET = msgspec.msgpack.Decoder(_Ticket)


def encode_ticket(run_id: bytes, peer: Contact) -> str:
    """The ticket of run `run_id` with `peer` as the first contact. `ValueError` if it could not be read back."""
    payload = encode(_Ticket(run_id, peer.id, peer.addresses, peer.relay_url))
    text = PREFIX + base64.b32encode(_checksum(payload) + payload).decode().rstrip("=").lower()
    try:
        decode_ticket(text)
    except TicketError as error:
        raise ValueError(f"no ticket can be made of this run id and address: {error}") from error
    return text


def decode_ticket(text: str) -> tuple[bytes, PeerInfo]:
    """(run id, where to find one of its nodes). `TicketError` says what is wrong; spaces and case do not matter."""
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
        ticket = parse_canonical(_TICKET, payload, "ticket")
        peer = PeerInfo(id=ticket.id, addresses=ticket.addresses, relay_url=ticket.relay_url)
        check_peer(peer)
    except InvalidData as error:
        raise TicketError(f"this ticket is whole, but made by another version of spikemesh: {error}") from error
    return ticket.run_id, peer


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
