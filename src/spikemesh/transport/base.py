"""The seam: how bytes reach others.

One request, one reply. A transport carries bytes between nodes that are named by their Ed25519 public key and knows
nothing of what the bytes mean. Everything that stops a reply from arriving, here, there or between, is one error:
``PeerUnreachable``. A request may reach the other side more than once (a connection that went stale is replaced and
the request repeated), so what a handler does must be idempotent, as everything in a CRDT is.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Protocol

from spikemesh.errors import PeerUnreachable

ID_BYTES = 32
MAX_MESSAGE_BYTES = 2**32 - 1

Handler = Callable[[bytes, bytes], Awaitable[bytes]]
"""``await handler(peer_id, request)`` is the reply. What it raises is logged here and is not told to the peer."""


@dataclass(frozen=True, kw_only=True)
class PeerAddress:
    """Who a peer is and where it was last seen: 32 bytes of public key, ``ip:port`` strings, perhaps a relay."""

    id: bytes
    addresses: tuple[str, ...] = ()
    relay_url: str | None = None

    def __post_init__(self) -> None:
        if len(self.id) != ID_BYTES:
            raise ValueError(f"a peer id is {ID_BYTES} bytes of Ed25519 public key, got {len(self.id)} bytes")

    def __str__(self) -> str:
        return f"{self.id.hex()[:10]} at {', '.join(self.addresses) or self.relay_url or 'no known address'}"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What this node lets others cost it. Each is a bound that holds whatever a peer does.

    The worst case in memory is ``max_requests * max_request_bytes`` for requests, and replies of our own making.
    """

    max_request_bytes: int = 16 << 20
    max_requests: int = 32
    max_requests_per_peer: int = 8
    max_connections: int = 128
    max_connections_per_peer: int = 4
    receive_timeout_s: float = 30.0
    """A request must be here this long after its stream was opened, and its reply taken this long after it is ready."""
    answer_timeout_s: float = 60.0
    """The handler must have answered after this long."""
    idle_timeout_s: float = 60.0
    """A connection that carried no request in either direction for this long is closed."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.max_request_bytes > MAX_MESSAGE_BYTES:
            raise ValueError(f"max_request_bytes is at most {MAX_MESSAGE_BYTES}, got {self.max_request_bytes}")


@dataclass(frozen=True, kw_only=True)
class PeerStatistics:
    """What was exchanged with one peer, as ``Metered`` counts it. Bytes are messages with their frames."""

    num_requests_sent: int = 0
    num_requests_failed: int = 0
    num_requests_received: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class TransportStatistics:
    """Totals since the start; every field but ``num_connections`` and ``num_requests_open`` only grows.

    ``wire_*_bytes`` is everything: for p2p the UDP payload of all connections, handshakes, acknowledgements and
    repeats included. ``total`` and ``peers`` are filled by ``Metered``.
    """

    num_connections: int = 0
    num_connections_opened: int = 0
    num_connections_refused: int = 0
    num_requests_open: int = 0
    wire_sent_bytes: int = 0
    wire_received_bytes: int = 0
    total: PeerStatistics = PeerStatistics()
    peers: Mapping[bytes, PeerStatistics] = field(default_factory=lambda: MappingProxyType({}))


class Transport(Protocol):
    """Requests to others and answers for them. One event loop owns it from ``start`` to ``close``."""

    @property
    def address(self) -> PeerAddress:
        """How others reach this node. Valid after ``start``."""

    async def start(self, handler: Handler) -> None:
        """Open for others. Raises ``TransportError`` when this machine gives no socket."""

    async def request(self, peer: PeerAddress, message: bytes, *, timeout_s: float, max_reply_bytes: int) -> bytes:
        """The peer's reply. Raises ``PeerUnreachable`` after ``timeout_s`` at the latest, saying why there is none."""

    def statistics(self) -> TransportStatistics:
        """A snapshot of the counters."""

    async def close(self) -> None:
        """Stop. Requests in flight end in ``PeerUnreachable``, handlers are cancelled. A second call does nothing."""


class Kind(IntEnum):
    """First byte of a frame."""

    REQUEST = 0
    REPLY = 1
    FAILED = 2
    TOO_LARGE = 3


HEADER = struct.Struct(">BI")
"""A frame is its kind, the length of its body and the body. The length is there to be judged before it is believed,
and because a QUIC stream that is dropped half way ends as if it were complete."""


def check_request(message: bytes, timeout_s: float, max_reply_bytes: int) -> None:
    """Raises ``ValueError`` for a request that no transport could carry."""
    if len(message) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message has at most {MAX_MESSAGE_BYTES} bytes, got {len(message)}")
    if timeout_s <= 0:
        raise ValueError(f"timeout_s must be positive, got {timeout_s}")
    if max_reply_bytes < 0:
        raise ValueError(f"max_reply_bytes must not be negative, got {max_reply_bytes}")


def check_reply(peer: PeerAddress, kind: int, num_bytes: int, max_reply_bytes: int) -> None:
    """Raises ``PeerUnreachable`` unless this header announces a reply that was asked for."""
    if kind == Kind.FAILED:
        raise PeerUnreachable(f"peer {peer} could not answer this request")
    if kind == Kind.TOO_LARGE:
        raise PeerUnreachable(f"peer {peer} takes requests of at most {num_bytes} bytes and this one is larger")
    if kind != Kind.REPLY:
        raise PeerUnreachable(f"peer {peer} sent a frame of kind {kind} where a reply was expected")
    if num_bytes > max_reply_bytes:
        raise PeerUnreachable(f"peer {peer} wants to send {num_bytes} bytes where at most {max_reply_bytes} are taken")
