"""What the meter adds, and what the network in memory does to messages."""

from __future__ import annotations

import asyncio
import random

import pytest

from spikemesh.errors import PeerUnreachable
from spikemesh.sim import run_virtually
from spikemesh.transport import MemoryNetwork, MemoryTransport, Metered, PeerStatistics
from spikemesh.transport.base import HEADER


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

    run_virtually(scenario())


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

    run_virtually(scenario())


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

    first, second, third = (run_virtually(fates(seed)) for seed in (1, 1, 2))
    assert first == second != third


def test_memory_latency_is_paid_each_way():
    async def scenario():
        a, b = await pair(lambda inner: inner, link=lambda _s, _r, _rng: 0.05)
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        await a.request(b.address, b"", timeout_s=5, max_reply_bytes=0)
        assert loop.time() - start_s == pytest.approx(0.1)
        with pytest.raises(PeerUnreachable):
            await a.request(b.address, b"", timeout_s=0.07, max_reply_bytes=0)

    run_virtually(scenario())
