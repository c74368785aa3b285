"""A transport that asks again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from spikemesh.errors import PeerUnreachable
from spikemesh.transport.base import Handler, PeerAddress, Transport, TransportStatistics


class Retry:
    """Repeats a failed request, at most ``attempts`` times in all and never beyond its ``timeout_s``.

    The pause before attempt n is drawn from 0 to ``backoff_s * 2**(n-2)``, so that nodes cut off together do not come
    back together.
    """

    def __init__(
        self,
        inner: Transport,
        *,
        rng: random.Random,
        attempts: int = 3,
        backoff_s: float = 0.2,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {attempts}")
        self._inner = inner
        self._rng = rng
        self._attempts = attempts
        self._backoff_s = backoff_s
        self._sleep = sleep
        self._clock = clock
        self._closed = False

    @property
    def address(self) -> PeerAddress:
        return self._inner.address

    async def start(self, handler: Handler) -> None:
        await self._inner.start(handler)

    async def request(self, peer: PeerAddress, message: bytes, *, timeout_s: float, max_reply_bytes: int) -> bytes:
        deadline_s = self._clock() + timeout_s
        left_s = timeout_s
        for attempt in range(self._attempts):
            try:
                return await self._inner.request(peer, message, timeout_s=left_s, max_reply_bytes=max_reply_bytes)
            except PeerUnreachable:
                pause_s = self._rng.uniform(0, self._backoff_s * 2**attempt)
                left_s = deadline_s - self._clock() - pause_s
                if self._closed or attempt + 1 == self._attempts or left_s <= 0:
                    raise
                await self._sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def statistics(self) -> TransportStatistics:
        return self._inner.statistics()

    async def close(self) -> None:
        self._closed = True
        await self._inner.close()
