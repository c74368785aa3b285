"""Time and workers as a node is handed them: the system's, or a simulator's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")


class Clock(Protocol):
    def monotonic_s(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...

    async def sleep(self, duration_s: float) -> None: ...


class SystemClock:
    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)


class Offload(Protocol):
    """`await offload(work, *args)` runs blocking work (disk, arithmetic) where it does not stop the event loop."""

    async def __call__(self, work: Callable[..., Result], /, *args: Any) -> Result: ...


async def in_thread(work: Callable[..., Result], /, *args: Any) -> Result:
    """In a worker thread. Waits for its end even when cancelled: memory must follow what is on the disk."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


async def inline(work: Callable[..., Result], /, *args: Any) -> Result:
    """At once, in the event loop: for simulations, where a thread would make the order of events random."""
    return work(*args)
