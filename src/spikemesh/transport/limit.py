"""A transport that leaves room on the line for others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from spikemesh.errors import PeerUnreachable
from spikemesh.transport.base import HEADER, Handler, PeerAddress, Transport, TransportStatistics, check_request


class Limited:
    """At most ``max_requests`` of our own requests at a time, and ``bytes_per_s`` of messages on average, both ways.

    What exceeds the rate is paid for by waiting afterwards: a large message goes out whole and the next ones wait.
    The wait is part of a request's ``timeout_s``.
    """

    def __init__(
        self,
        inner: Transport,
        *,
        max_requests: int,
        bytes_per_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_requests < 1 or bytes_per_s <= 0:
            raise ValueError(f"limits must be positive, got {max_requests} requests and {bytes_per_s} bytes per second")
        self._inner = inner
        self._places = asyncio.Semaphore(max_requests)
        self._bytes_per_s = bytes_per_s
        self._sleep = sleep
        self._clock = clock
        self._free_at_s = clock()

    @property
    def address(self) -> PeerAddress:
        return self._inner.address

    async def start(self, handler: Handler) -> None:
        async def paced(peer: bytes, request: bytes) -> bytes:
            self._charge(request)
            reply = await handler(peer, request)
            await self._turn()
            self._charge(reply)
            return reply

        await self._inner.start(paced)

    async def request(self, peer: PeerAddress, message: bytes, *, timeout_s: float, max_reply_bytes: int) -> bytes:
        check_request(message, timeout_s, max_reply_bytes)
        deadline_s = self._clock() + timeout_s
        try:
            async with asyncio.timeout(timeout_s), self._places:
                await self._turn()
                self._charge(message)
                left_s = max(deadline_s - self._clock(), 0.001)
                reply = await self._inner.request(peer, message, timeout_s=left_s, max_reply_bytes=max_reply_bytes)
        except TimeoutError:
            raise PeerUnreachable(
                f"peer {peer} was not heard within {timeout_s:g} s under this node's limits"
            ) from None
        self._charge(reply)
        return reply

    def _charge(self, message: bytes) -> None:
        start_s = max(self._free_at_s, self._clock())
        self._free_at_s = start_s + (HEADER.size + len(message)) / self._bytes_per_s

    async def _turn(self) -> None:
        while (wait_s := self._free_at_s - self._clock()) > 0:
            await self._sleep(wait_s)

    def statistics(self) -> TransportStatistics:
        return self._inner.statistics()

    async def close(self) -> None:
        await self._inner.close()
