"""Going through tensors stretch by stretch on all processors, with the memory of a few stretches.

Workers take the stretches in order, so that files are read and written almost in order. Reading, hashing, combining and
writing all release Python's lock.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


Item = TypeVar("Item")


@dataclass(frozen=True)
class Stretch:
    """Elements start..start+count of a tensor."""

    start: int
    count: int


def stretches(num_elements: int, at_most: int) -> Iterator[Stretch]:
    """A tensor's elements in order, `at_most` so many at a time."""
    for start in range(0, num_elements, at_most):
        yield Stretch(start, min(at_most, num_elements - start))


PAGE_BYTES = 4096


class Buffers:
    """One worker's scratch: `buffers(slot, size)` is valid until the same slot is asked for again."""

    def __init__(self) -> None:
        self._slots: dict[int, Bytes] = {}

    def __call__(self, slot: int, size: int, *, lie: int = 0) -> Bytes:
        """`size` bytes whose address is `lie` bytes after the start of a page."""
        held = self._slots.get(slot)
        if held is None or len(held) < size + 2 * PAGE_BYTES:
            held = self._slots[slot] = np.empty(size + 2 * PAGE_BYTES, np.uint8)
        start = -held.ctypes.data % PAGE_BYTES + lie
        return held[start : start + size]


def default_threads() -> int:
    """Twice the processors that this process may use: half of the workers wait for the disk."""
    return 2 * len(os.sched_getaffinity(0))


def for_each(items: Iterable[Item], work: Callable[[Item, Buffers], None], *, num_threads: int | None = None) -> None:
    """Run `work` on every item, on several threads. The first exception stops all of them and is raised here.

    So does Ctrl-C: this returns, or raises, only when no worker touches anything any more.
    """
    waiting = iter(items)
    lock, stop = threading.Lock(), threading.Event()

    def loop() -> None:
        buffers = Buffers()
        while not stop.is_set():
            with lock:
                item = next(waiting, None)
            if item is None:
                return
            work(item, buffers)

    count = num_threads or default_threads()
    with ThreadPoolExecutor(count) as pool:
        try:
            workers = [pool.submit(loop) for _ in range(count)]
            for worker in as_completed(workers):
                worker.result()
        finally:
            stop.set()
