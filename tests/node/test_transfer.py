"""Large blobs come from several peers, part by part; a break costs one part and a liar is found at its first lie."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from spikemesh.codec import PART_BYTES, BlobPart, GetBlob, GetParts, Parts, Refused, decode_message, encode_message
from spikemesh.errors import BlobGone, PeerUnreachable
from spikemesh.node import KeptParts, fetch_blob
from spikemesh.node.clock import inline
from spikemesh.node.transfer import LATE_S, Kept, PartsOnDisk
from spikemesh.sim import run_virtually
from spikemesh.sim.run import identity
from spikemesh.store import BlobStore
from spikemesh.transport import MemoryNetwork, MemoryTransport, PeerAddress

BLOB = random.Random(5).randbytes(8 * PART_BYTES + 1234)
DIGEST = blake3(BLOB).digest()


class Server:
    """Serves `data` under `DIGEST`; `part` may change what goes out, or raise."""

    def __init__(self, data: bytes | None = BLOB, part: Callable[[GetBlob, bytes], bytes] = lambda _, d: d) -> None:
        self.data, self.part = data, part
        self.sent: list[int] = []

    async def __call__(self, _peer: bytes, request: bytes) -> bytes:
        message = decode_message(request)
        if self.data is None:
            return encode_message(Refused(reason="missing", text="not here"))
        if isinstance(message, GetParts):
            starts = range(0, len(self.data), PART_BYTES)
            hashes = tuple(blake3(self.data[start : start + PART_BYTES]).digest() for start in starts)
            return encode_message(Parts(total_bytes=len(self.data), hashes=hashes))
        assert isinstance(message, GetBlob)
        data = self.part(message, self.data[message.offset : message.offset + message.length])
        self.sent.append(message.offset // PART_BYTES)
        return encode_message(BlobPart(data=data, total_bytes=len(self.data)))


def fetching(
    servers: list[Server],
    story: Callable[[MemoryTransport, list[PeerAddress]], Awaitable[Any]],
    delays_s: tuple[float, ...] = (),
) -> Any:
    slow = {identity(n + 1).id: delay_s for n, delay_s in enumerate(delays_s)}

    def link(sender: bytes, receiver: bytes, rng: random.Random) -> float:
        return 0.01 + slow.get(sender, 0.0)

    async def main() -> Any:
        network = MemoryNetwork(link=link)
        mine = MemoryTransport(network, id=identity(0).id)
        await mine.start(Server(None))
        others = [MemoryTransport(network, id=identity(n + 1).id) for n in range(len(servers))]
        for transport, server in zip(others, servers, strict=True):
            await transport.start(server)
        try:
            return await story(mine, [transport.address for transport in others])
        finally:
            for transport in (mine, *others):
                await transport.close()

    coroutine: Coroutine[Any, Any, Any] = main()
    return run_virtually(coroutine)


def test_all_peers_share_the_work() -> None:
    servers = [Server(), Server(), Server()]
    assert fetching(servers, lambda mine, peers: fetch_blob(mine, peers, DIGEST, len(BLOB))) == BLOB
    assert all(server.sent for server in servers)


def test_a_peer_that_dies_midway_is_replaced_and_nothing_comes_twice() -> None:
    async def story(mine: MemoryTransport, peers: list[PeerAddress]) -> bytes:
        return await fetch_blob(mine, peers, DIGEST, len(BLOB))

    def dying(message: GetBlob, data: bytes) -> bytes:
        if message.offset >= 2 * PART_BYTES:
            raise RuntimeError("gone")
        return data

    servers = [Server(part=dying), Server()]
    assert fetching(servers, story) == BLOB
    assert len(servers[0].sent) + len(servers[1].sent) <= 9 + 2


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_broken_transfer_goes_on_where_it_was(tmp_path: Path, on_disk: bool) -> None:
    in_memory = KeptParts()

    def kept() -> Kept:  # on the disk, of a process that came back
        return (
            PartsOnDisk(BlobStore(tmp_path / "parts", tmp_path / "corrupt"), inline, len(BLOB))
            if on_disk
            else in_memory
        )

    def dying(message: GetBlob, data: bytes) -> bytes:
        if message.offset >= 5 * PART_BYTES:
            raise RuntimeError("gone")
        return data

    async def story(mine: MemoryTransport, peers: list[PeerAddress]) -> bytes:
        return await fetch_blob(mine, peers, DIGEST, len(BLOB), kept())

    broken, later = Server(part=dying), Server()
    with pytest.raises(PeerUnreachable, match="none of 1 peers delivered"):
        fetching([broken], story)
    assert fetching([later], story) == BLOB
    assert not set(broken.sent) & set(later.sent)
    assert set(broken.sent) | set(later.sent) == set(range(9))
    first = run_virtually(kept().get(blake3(BLOB[:PART_BYTES]).digest()))
    assert first == (BLOB[:PART_BYTES] if on_disk else None)  # done: memory is let go of, and the disk when told to
    if on_disk:
        run_virtually(
            PartsOnDisk(parts := BlobStore(tmp_path / "parts", tmp_path / "corrupt"), inline, len(BLOB)).keep_only()
        )
        assert not parts.total_bytes


def test_a_lying_peer_is_found_at_its_first_part() -> None:
    liar = Server(part=lambda message, data: bytes(len(data)))
    honest = Server()
    assert fetching([liar, honest], lambda mine, peers: fetch_blob(mine, peers, DIGEST, len(BLOB))) == BLOB
    assert len(liar.sent) <= 4 and sorted(set(honest.sent)) == list(range(9))


@pytest.mark.parametrize("num_liars", [1, 3])
def test_false_hashes_are_found_in_the_end_and_another_list_is_tried(num_liars: int) -> None:
    liars = [Server(data=bytes(len(BLOB))) for _ in range(num_liars)]
    honest = Server()
    assert fetching([*liars, honest], lambda mine, peers: fetch_blob(mine, peers, DIGEST, len(BLOB))) == BLOB
    with pytest.raises(PeerUnreachable, match="none of"):
        fetching(liars, lambda mine, peers: fetch_blob(mine, peers, DIGEST, len(BLOB)))


def seconds(delays_s: tuple[float, ...], num_bytes: int) -> float:
    """How long a blob of so many bytes takes from peers that are late by `delays_s`."""
    blob = BLOB[:num_bytes]

    async def story(mine: MemoryTransport, peers: list[PeerAddress]) -> float:
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        assert await fetch_blob(mine, peers, blake3(blob).digest(), num_bytes) == blob
        return loop.time() - start_s

    return float(fetching([Server(blob) for _ in delays_s], story, delays_s))


@pytest.mark.parametrize("num_bytes", [len(BLOB), 1234])
def test_a_slow_peer_does_not_hold_back_a_blob(num_bytes: int) -> None:
    quick = seconds((0.0,), num_bytes)
    for delays_s in ((0.0, 9.0), (9.0, 0.0), (9.0, 0.0, 9.0)):
        assert seconds(delays_s, num_bytes) <= quick + LATE_S + 0.1
    assert 4.0 < seconds((4.0, 4.0), num_bytes) < 13.0  # and who has nobody else waits


def test_a_blob_that_nobody_holds_is_gone_and_a_list_of_another_size_is_not_believed() -> None:
    with pytest.raises(BlobGone):
        fetching([Server(None)], lambda mine, peers: fetch_blob(mine, peers, DIGEST, len(BLOB)))
    with pytest.raises(PeerUnreachable, match="lists 10 parts"):
        fetching([Server(BLOB + BLOB[: 1 << 20])], lambda mine, peers: fetch_blob(mine, peers, DIGEST, len(BLOB)))


def test_kept_parts_are_bounded() -> None:
    async def story() -> list[int]:
        kept = KeptParts(max_bytes=1000)
        parts = [bytes([number]) * 100 for number in range(100)]
        for data in parts * 2:
            await kept.add(blake3(data).digest(), data)
        return [number for number, data in enumerate(parts) if await kept.get(blake3(data).digest())]

    assert run_virtually(story()) == list(range(90, 100))


def test_parts_on_the_disk_are_bounded_and_none_of_the_running_transfer_is_lost(tmp_path: Path) -> None:
    """The disk is nearly full of parts of other lists, of liars, when the transfer begins."""
    parts = BlobStore(tmp_path / "parts", tmp_path / "corrupt")
    most = 0

    async def story(mine: MemoryTransport, peers: list[PeerAddress]) -> bytes:
        nonlocal most
        kept = PartsOnDisk(parts, inline, 2 * len(BLOB))
        for number in range(20):
            data = random.Random(number).randbytes(PART_BYTES)
            await kept.add(blake3(data).digest(), data)
            most = max(most, parts.total_bytes)
        got = await fetch_blob(mine, peers, DIGEST, len(BLOB), kept)
        most = max(most, parts.total_bytes)
        return got

    assert fetching([Server()], story) == BLOB
    assert len(BLOB) < most <= 2 * len(BLOB)
