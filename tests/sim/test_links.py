"""What simulated links do to messages, and that a store in memory is a store."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

from spikemesh.errors import BlobMissing, PeerUnreachable
from spikemesh.node import Ledger
from spikemesh.sim import Links, Weather, run_virtually
from spikemesh.sim.disk import MemoryStore
from spikemesh.sim.links import Network, SimulatedTransport
from spikemesh.sim.run import GENESIS, RUN_ID, THETA0, contribution
from spikemesh.store import Store
from spikemesh.transport import PeerAddress

A, B = bytes([1]) * 32, bytes([2]) * 32


def asked(links: Links, times: int, timeout_s: float = 1.0) -> tuple[int, int]:
    """B's number of requests and A's of replies, of `times` that A asks."""
    arrived: list[bytes] = []

    async def handler(_peer: bytes, request: bytes) -> bytes:
        arrived.append(request)
        return request

    async def story() -> int:
        network, answered = Network(links=links, rng=random.Random(1), observer=lambda *_: None), 0
        a, b = (SimulatedTransport(network, id=peer) for peer in (A, B))
        await a.start(handler)
        await b.start(handler)
        for number in range(times):
            with contextlib.suppress(PeerUnreachable):
                await a.request(PeerAddress(id=B), b"%d" % number, timeout_s=timeout_s, max_reply_bytes=9)
                answered += 1
        await asyncio.sleep(10.0)
        await a.close()
        await b.close()
        return answered

    answered = run_virtually(story())
    return len(arrived), answered


def test_a_repeated_request_arrives_twice() -> None:
    assert asked(Links(Weather(duplication=1.0)), 50) == (100, 50)


def test_half_of_all_requests_fail_when_a_third_of_all_messages_is_lost() -> None:
    arrived, answered = asked(Links(Weather(loss=0.3)), 1000)
    assert 650 < arrived < 750 and 440 < answered < 540


def test_a_lost_request_is_sent_again_while_there_is_time() -> None:
    arrived, answered = asked(Links(Weather(loss=0.3)), 1000, timeout_s=10.0)
    assert arrived > 1000 and 830 < answered < 910  # half of the half of the half fail


def test_who_is_not_there_is_known_at_once() -> None:
    async def story() -> None:
        network = Network(links=Links(Weather()), rng=random.Random(1), observer=lambda *_: None)
        a = SimulatedTransport(network, id=A)
        with pytest.raises(PeerUnreachable, match="not open"):
            await a.request(PeerAddress(id=B), b"x", timeout_s=10.0, max_reply_bytes=9)
        await a.start(lambda *_: asyncio.sleep(0, b""))
        with pytest.raises(PeerUnreachable, match="is not there"):
            await a.request(PeerAddress(id=B), b"x", timeout_s=10.0, max_reply_bytes=9)
        assert asyncio.get_running_loop().time() < 1.0

    run_virtually(story())


def test_a_cut_link_carries_nothing_and_a_mute_peer_hears() -> None:
    links = Links(Weather())
    links.cut([A], [B])
    assert asked(links, 3) == (0, 0)
    links.heal()
    links.mute.add(B)
    assert asked(links, 3) == (3, 0)
    links.heal()
    assert asked(links, 3) == (3, 3)


def test_a_store_in_memory_keeps_what_one_on_a_disk_keeps(tmp_path: Path) -> None:
    pairs = [contribution(author, seq) for author in (1, 2) for seq in range(1, 12)]
    with Store.open(tmp_path) as on_disk:
        stores = (on_disk, MemoryStore())
        for store in stores:
            ledger = Ledger.open(store, GENESIS, RUN_ID, THETA0)
            for record, delta in pairs:
                assert record.body.delta_hash not in ledger.replica.records.visible
                ledger.insert([record], {record.body.delta_hash: delta})
        (rows, other_rows), (saved, other_saved) = ([*s.records()] for s in stores), (s.load_sum() for s in stores)
        assert rows == other_rows
        assert saved == other_saved and saved is not None
        first, second = (Ledger.open(store, GENESIS, RUN_ID, THETA0).replica for store in stores)
        assert first == second
        for store in stores:
            blob = pairs[0][1]
            assert store.blobs.has(first.records.visible[pairs[0][0].id].delta_hash)
            assert store.blobs.read_range(pairs[0][0].body.delta_hash, 5, 9) == blob[5:14]
            assert store.blobs.total_bytes == sum(len(delta) for _, delta in pairs)
            with pytest.raises(BlobMissing):
                store.blobs.get(bytes(32))
            with pytest.raises(ValueError, match="hash"):
                store.blobs.put_verified(bytes(32), b"x")
