"""Work in flight that ends for one of four reasons: it is done, out of time, no longer wanted, or this side closes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from spikemesh.errors import PeerUnreachable

T = TypeVar("T")


def look(task: asyncio.Task[Any]) -> None:
    """Nobody may be left to hear this task's error; asyncio would print that it was never retrieved."""
    if not task.cancelled():
        task.exception()


class InFlight:
    """Runs coroutines as tasks that ``close`` can end without ending whoever waits for them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T], *, timeout_s: float | None, late: str, closed: str) -> T:
        """The result. ``PeerUnreachable`` with the sentence ``late`` or ``closed``; nothing runs on after that."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(look)
        try:
            done, _ = await asyncio.wait({task}, timeout=timeout_s)
        finally:
            self._tasks.discard(task)
            task.cancel()
        if not done:
            raise PeerUnreachable(late)
        if task.cancelled():
            raise PeerUnreachable(closed)
        return task.result()

    async def close(self) -> None:
        """Cancel everything and wait until it is gone."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
