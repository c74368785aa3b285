"""The bounded places at which requests of others are answered; what every transport's serving side shares."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from spikemesh.transport.base import Handler, Kind, Limits

log = logging.getLogger("spikemesh.transport")


class Desk:
    """Answers requests, so many at a time in all and per peer. Who finds no place waits for one."""

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self._handler = handler
        self._limits = limits
        self._total = asyncio.Semaphore(limits.max_requests)
        self._per_peer: dict[bytes, asyncio.Semaphore] = {}
        self._num_at: Counter[bytes] = Counter()
        self.num_open = 0

    @asynccontextmanager
    async def place(self, peer: bytes) -> AsyncIterator[None]:
        """Holds a place for a request of this peer. The peer's own limit comes first, so it queues behind itself."""
        own = self._per_peer.setdefault(peer, asyncio.Semaphore(self._limits.max_requests_per_peer))
        self._num_at[peer] += 1
        try:
            async with own, self._total:
                self.num_open += 1
                try:
                    yield
                finally:
                    self.num_open -= 1
        finally:
            self._num_at[peer] -= 1
            if not self._num_at[peer]:
                del self._num_at[peer], self._per_peer[peer]

    async def answer(self, peer: bytes, request: bytes) -> tuple[Kind, bytes]:
        """The handler's reply, or ``FAILED`` with nothing: the cause stays in this node's log."""
        try:
            async with asyncio.timeout(self._limits.answer_timeout_s):
                reply = await self._handler(peer, request)
            return Kind.REPLY, bytes(reply)
        except Exception:
            log.exception("no answer for peer %s to a request of %d bytes", peer.hex()[:10], len(request))
            return Kind.FAILED, b""
