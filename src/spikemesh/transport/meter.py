"""A transport that counts what passes through it."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from spikemesh.errors import PeerUnreachable
from spikemesh.transport.base import HEADER, Handler, PeerAddress, PeerStatistics, Transport, TransportStatistics


class Metered:
    """Counts requests and message bytes with their frames, in all and per peer.

    A repeat that a wrapper or the engine below makes is one request here; ``wire_*_bytes`` know of it. The counts of
    the ``max_peers`` peers met last are kept, so that strangers cannot fill the memory; the total misses none.
    """

    def __init__(self, inner: Transport, *, max_peers: int = 1024) -> None:
        self._inner = inner
        self._max_peers = max_peers
        self._total = PeerStatistics()
        self._peers: dict[bytes, PeerStatistics] = {}

    @property
    def address(self) -> PeerAddress:
        return self._inner.address

    async def start(self, handler: Handler) -> None:
        async def counted(peer: bytes, request: bytes) -> bytes:
            self._count(peer, num_requests_received=1, received_bytes=HEADER.size + len(request))
            reply = await handler(peer, request)
            self._count(peer, sent_bytes=HEADER.size + len(reply))
            return reply

        await self._inner.start(counted)

    async def request(self, peer: PeerAddress, message: bytes, *, timeout_s: float, max_reply_bytes: int) -> bytes:
        self._count(peer.id, num_requests_sent=1, sent_bytes=HEADER.size + len(message))
        try:
            reply = await self._inner.request(peer, message, timeout_s=timeout_s, max_reply_bytes=max_reply_bytes)
        except PeerUnreachable:
            self._count(peer.id, num_requests_failed=1)
            raise
        self._count(peer.id, received_bytes=HEADER.size + len(reply))
        return reply

    def _count(self, peer: bytes, **more: int) -> None:
        self._total = _plus(self._total, more)
        self._peers[peer] = _plus(self._peers.pop(peer, PeerStatistics()), more)
        if len(self._peers) > self._max_peers:
            del self._peers[next(iter(self._peers))]

    def statistics(self) -> TransportStatistics:
        return replace(self._inner.statistics(), total=self._total, peers=MappingProxyType(dict(self._peers)))

    async def close(self) -> None:
        await self._inner.close()


def _plus(counts: PeerStatistics, more: dict[str, int]) -> PeerStatistics:
    return replace(counts, **{name: getattr(counts, name) + number for name, number in more.items()})
