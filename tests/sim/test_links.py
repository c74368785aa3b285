"""What simulated links do to messages, and that a store in memory is a store."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from spikemesh.errors import BlobMissing, PeerUnreachable
from spikemesh.node import Ledger
from spikemesh.sim import Links, Weather, run_virtually
from spikemesh.sim.disk import MemoryStore
from spikemesh.sim.links import Observed
from spikemesh.sim.run import GENESIS, RUN_ID, THETA0, contribution
from spikemesh.store import Store
from spikemesh.transport import MemoryNetwork, MemoryTransport, PeerAddress

A, B = bytes([1]) * 32, bytes([2]) * 32


def asked(links: Links, times: int) -> tuple[int, int]:
    """B's number of requests and A's of replies, of `times` that A asks."""
    arrived: list[bytes] = []

    async def handler(_peer: bytes, request: bytes) -> bytes:
        arrived.append(request)
        return request

    async def story() -> int:
        network, answered = MemoryNetwork(link=links), 0
        a, b = (
            Observed(MemoryTransport(network, id=peer), links=links, rng=random.Random(1), observer=lambda *_: None)
            for peer in (A, B)
        )
        await a.start(handler)
        await b.start(handler)
        for number in range(times):
            try:
                await a.request(PeerAddress(id=B), b"%d" % number, timeout_s=5.0, max_reply_bytes=9)
                answered += 1
            except PeerUnreachable:
                pass
        await asyncio.sleep(10.0)
        await a.close()
        await b.close()
        return answered

    return (len(arrived), answered) if (answered := run_virtually(story())) is not None else (0, 0)


def test_a_repeated_request_arrives_twice() -> None:
    assert asked(Links(Weather(duplication=1.0)), 50) == (100, 50)


def test_half_of_all_requests_fail_when_a_third_of_all_messages_is_lost() -> None:
    arrived, answered = asked(Links(Weather(loss=0.3)), 1000)
    assert 650 < arrived < 750 and 440 < answered < 540


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
