"""Going through everything on several threads: each item once, and the first error ends it for all."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from spikemesh.checkpoint.windows import PAGE_BYTES, Buffers, Stretch, for_each, stretches
from tests.hang import HANG_S

THREADS = [1, 2, 4, None]


@pytest.mark.parametrize("num_threads", THREADS)
def test_each_item_once(num_threads: int | None) -> None:
    done: list[int] = []
    for_each(range(500), lambda item, _: done.append(item), num_threads=num_threads)
    assert sorted(done) == list(range(500))
    assert num_threads != 1 or done == sorted(done)
    for_each([], lambda item, _: pytest.fail("there is nothing to do"), num_threads=num_threads)


def test_items_are_taken_in_order_and_one_by_one() -> None:
    """Not all of them are made at once: there may be millions."""
    taken: list[int] = []
    done: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            assert len(taken) - len(done) <= 3
            yield number

    for_each(items(), lambda item, _: done.append(item), num_threads=2)
    assert taken == sorted(taken)


def test_several_threads_work_at_once() -> None:
    together = threading.Barrier(3, timeout=HANG_S)
    for_each(range(3), lambda *_: together.wait() and None, num_threads=3)


class Failure(Exception):
    pass


@pytest.mark.parametrize("num_threads", THREADS)
def test_the_first_error_ends_it_and_all_threads(num_threads: int | None) -> None:
    before = threading.active_count()
    active = [0]
    done: list[int] = []

    def work(item: int, _: Buffers) -> None:
        active[0] += 1
        try:
            if item == 20:
                raise Failure("twenty")
            time.sleep(0.001)
            done.append(item)
        finally:
            active[0] -= 1

    with pytest.raises(Failure, match="twenty"):
        for_each(range(10_000), work, num_threads=num_threads)
    assert active == [0] and threading.active_count() == before
    assert len(done) < 5_000


def test_an_error_of_the_items_ends_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise Failure("no more")

    with pytest.raises(Failure):
        for_each(items(), lambda *_: None, num_threads=3)


def test_ctrl_c_ends_it_and_all_threads() -> None:
    before = threading.active_count()
    done: list[int] = []

    def work(item: int, _: Buffers) -> None:
        if item == 5:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.005)
        done.append(item)

    with pytest.raises(KeyboardInterrupt):
        for_each(range(10_000), work, num_threads=2)
    assert threading.active_count() == before
    assert len(done) < 5_000


def test_ctrl_c_while_threads_are_started_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes when it comes: here, when the second of three threads is being started."""
    done: list[int] = []
    num_started = 0
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        nonlocal num_started
        num_started += 1
        if num_started == 2:
            raise KeyboardInterrupt
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)

    def work(item: int, _: Buffers) -> None:
        time.sleep(0.001)
        done.append(item)

    with pytest.raises(KeyboardInterrupt):
        for_each(range(10_000), work, num_threads=3)
    assert len(done) < 5_000


def test_stretches_cover_everything_once() -> None:
    assert list(stretches(10, 4)) == [Stretch(0, 4), Stretch(4, 4), Stretch(8, 2)]
    assert list(stretches(8, 4)) == [Stretch(0, 4), Stretch(4, 4)]
    assert list(stretches(0, 4)) == []


@pytest.mark.parametrize("lie", [0, 1, 8, PAGE_BYTES - 1])
def test_buffers_lie_where_they_should_and_are_used_again(lie: int) -> None:
    buffers = Buffers()
    first = buffers(0, 1000, lie=lie)
    assert len(first) == 1000 and first.ctypes.data % PAGE_BYTES == lie
    first[:] = 7
    assert (buffers(0, 500, lie=lie) == 7).all()
    assert buffers(0, 500, lie=lie).base is first.base
    other = buffers(1, 1000, lie=lie)
    other[:] = 8
    assert (first == 7).all()
    assert len(buffers(0, 100_000, lie=lie)) == 100_000
