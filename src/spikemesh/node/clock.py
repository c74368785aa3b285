"""Time and workers as a node is handed them: the system's, or a simulator's."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")

NICENESS = 10


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
    return await _to_its_end(asyncio.ensure_future(asyncio.to_thread(work, *args)))


def giving_way() -> Offload:
    """`in_thread` for work that takes all the time there is, as training: every other thread goes before it.

    A delta reaches the others in a dozen short steps of event loop and disk, and each would wait for a processor that
    trains. Only where a thread can have a priority of its own, which is Linux; elsewhere it is an ordinary thread.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="training", initializer=_give_way)

    async def offload(work: Callable[..., Result], /, *args: Any) -> Result:
        return await _to_its_end(asyncio.get_running_loop().run_in_executor(thread, partial(work, *args)))

    return offload


async def _to_its_end(task: asyncio.Future[Result]) -> Result:
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _give_way() -> None:
    if sys.platform == "linux":  # threads that this one starts inherit it
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))


async def inline(work: Callable[..., Result], /, *args: Any) -> Result:
    """At once, in the event loop: for simulations, where a thread would make the order of events random."""
    return work(*args)
