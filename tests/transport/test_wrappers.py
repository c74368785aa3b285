"""What each wrapper adds, on clocks and networks that are not real."""

from __future__ import annotations

import asyncio
import random

import pytest

from spikemesh.errors import PeerUnreachable
from spikemesh.transport import Limited, MemoryNetwork, MemoryTransport, Metered, PeerStatistics, Retry
from spikemesh.transport.base import HEADER


class Clock:
    """Time that passes only in ``sleep``."""

    def __init__(self):
        self.now_s = 0.0
        self.slept = []

    def __call__(self):
        return self.now_s

    async def sleep(self, duration_s):
        self.slept.append(duration_s)
        self.now_s += duration_s
        await asyncio.sleep(0)


async def echo(_peer, request):
    return request


async def pair(wrap, handler=echo, link=None):
    network = MemoryNetwork(**({"link": link} if link else {}))
    a, b = (wrap(MemoryTransport(network, id=bytes([n] * 32))) for n in (1, 2))
    await a.start(handler)
    await b.start(handler)
    return a, b


def test_meter_counts_frames_per_peer_and_in_all():
    async def scenario():
        a, b = await pair(Metered)
        await a.request(b.address, b"12345", timeout_s=1, max_reply_bytes=5)
        with pytest.raises(PeerUnreachable):
            await a.request(b.address, b"12345", timeout_s=1, max_reply_bytes=4)
        frame_bytes = HEADER.size + 5
        expected = PeerStatistics(
            num_requests_sent=2, num_requests_failed=1, sent_bytes=2 * frame_bytes, received_bytes=frame_bytes
        )
        assert a.statistics().peers == {b.address.id: expected}
        assert a.statistics().total == expected
        expected = PeerStatistics(num_requests_received=2, sent_bytes=2 * frame_bytes, received_bytes=2 * frame_bytes)
        assert b.statistics().peers == {a.address.id: expected}

    asyncio.run(scenario())


def test_meter_forgets_strangers_but_not_the_total():
    async def scenario():
        network = MemoryNetwork()
        a = Metered(MemoryTransport(network, id=bytes(32)), max_peers=2)
        await a.start(echo)
        for n in range(1, 5):
            stranger = MemoryTransport(network, id=bytes([n] * 32))
            await stranger.start(echo)
            await stranger.request(a.address, b"", timeout_s=1, max_reply_bytes=0)
        assert set(a.statistics().peers) == {bytes([3] * 32), bytes([4] * 32)}
        assert a.statistics().total.num_requests_received == 4

    asyncio.run(scenario())


def failing(times):
    left = [times]

    async def handler(_peer, request):
        left[0] -= 1
        if left[0] >= 0:
            raise RuntimeError("not yet")
        return request

    return handler


@pytest.mark.parametrize(("times", "works"), [(0, True), (2, True), (3, False)])
def test_retry_asks_so_often_and_pauses_longer_each_time(times, works):
    async def scenario():
        clock = Clock()
        rng = random.Random(1)
        a, b = await pair(
            lambda inner: Retry(inner, rng=rng, attempts=3, backoff_s=1, sleep=clock.sleep, clock=clock),
            failing(times),
        )
        asked = a.request(b.address, b"x", timeout_s=100, max_reply_bytes=9)
        if works:
            assert await asked == b"x"
        else:
            with pytest.raises(PeerUnreachable):
                await asked
        drawn = random.Random(1)
        assert clock.slept == [drawn.uniform(0, 2**n) for n in range(min(times, 2))]

    asyncio.run(scenario())


def test_retry_never_goes_beyond_the_timeout():
    async def scenario():
        clock = Clock()
        rng = random.Random(1)
        a, b = await pair(
            lambda inner: Retry(inner, rng=rng, attempts=99, backoff_s=1, sleep=clock.sleep, clock=clock), failing(99)
        )
        with pytest.raises(PeerUnreachable):
            await a.request(b.address, b"x", timeout_s=10, max_reply_bytes=9)
        assert 0 < clock.now_s < 10

    asyncio.run(scenario())


def test_limit_spreads_bytes_over_time():
    async def scenario():
        clock = Clock()
        a, b = await pair(
            lambda inner: (
                Limited(inner, max_requests=1, bytes_per_s=1000, sleep=clock.sleep, clock=clock)
                if inner.address.id[0] == 1
                else inner
            )
        )
        size = 250 - HEADER.size
        for _ in range(5):
            await a.request(b.address, bytes(size), timeout_s=60, max_reply_bytes=size)
        assert clock.now_s == pytest.approx(4 * 2 * 0.25)
        await b.request(a.address, bytes(size), timeout_s=60, max_reply_bytes=size)
        assert clock.now_s == pytest.approx(4 * 2 * 0.25 + 3 * 0.25)

    asyncio.run(scenario())


def test_limit_bounds_our_own_requests():
    async def scenario():
        now = most = 0

        async def handler(_peer, request):
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1
            return request

        a, b = await pair(lambda inner: Limited(inner, max_requests=2, bytes_per_s=1e9), handler)
        await asyncio.gather(*(a.request(b.address, b"", timeout_s=5, max_reply_bytes=0) for _ in range(9)))
        assert most == 2

    asyncio.run(scenario())


def test_waiting_under_a_limit_is_part_of_the_timeout():
    async def scenario():
        a, b = await pair(lambda inner: Limited(inner, max_requests=1, bytes_per_s=100))
        asked = a.request(b.address, bytes(100_000), timeout_s=0.1, max_reply_bytes=100_000)
        with pytest.raises(PeerUnreachable):
            await asked
        with pytest.raises(PeerUnreachable, match="under this node's limits"):
            await a.request(b.address, b"", timeout_s=0.1, max_reply_bytes=0)

    asyncio.run(scenario())


def test_memory_link_decides_on_every_message_and_repeats_with_its_seed():
    async def fates(seed):
        drops = []

        def link(_sender, _receiver, rng):
            drops.append(rng.random() < 0.3)
            return None if drops[-1] else 0.0

        network = MemoryNetwork(link=link, rng=random.Random(seed))
        a, b = (MemoryTransport(network, id=bytes([n] * 32)) for n in (1, 2))
        await a.start(echo)
        await b.start(echo)
        outcomes = []
        for _ in range(20):
            try:
                await a.request(b.address, b"", timeout_s=0.01, max_reply_bytes=0)
                outcomes.append(True)
            except PeerUnreachable:
                outcomes.append(False)
        assert outcomes.count(False) == drops.count(True) > 0
        return outcomes

    first, second, third = (asyncio.run(fates(seed)) for seed in (1, 1, 2))
    assert first == second != third


def test_memory_latency_is_paid_each_way():
    async def scenario():
        a, b = await pair(lambda inner: inner, link=lambda _s, _r, _rng: 0.05)
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        await a.request(b.address, b"", timeout_s=5, max_reply_bytes=0)
        assert loop.time() - start_s >= 0.1
        with pytest.raises(PeerUnreachable):
            await a.request(b.address, b"", timeout_s=0.07, max_reply_bytes=0)

    asyncio.run(scenario())
