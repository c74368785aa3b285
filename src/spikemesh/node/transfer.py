"""Large blobs: in parts, from several peers at once, each part checked when it comes.

A blob has one hash. So that a wrong part is found before the last one came, each source is first asked for the hashes
of its parts. Sources that give the same list work together: whoever then sends a part that does not fit the list is
dropped at that part, and its part goes to another. The list itself is proven by the blob's hash in the end; if it was a
lie, all who told it are dropped and the next list is tried. A part, once here, is valid under its hash whoever sent
it, so a transfer that breaks off goes on where it was: `kept` remembers, in memory or on the disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol, TypeVar

from blake3 import blake3

from spikemesh.codec import PART_BYTES, BlobPart, GetBlob, GetParts, Parts
from spikemesh.errors import BlobGone, BlobMissing, InvalidData, PeerUnreachable, SpikemeshError, StoreCorrupt
from spikemesh.node.calls import REQUEST_TIMEOUT_S, SLOWEST_BYTES_PER_S, ask
from spikemesh.node.clock import Offload
from spikemesh.node.holdings import Blobs
from spikemesh.transport import PeerAddress, Transport

log = logging.getLogger("spikemesh.node")

Result = TypeVar("Result")

REQUESTS_PER_PEER = 4
"""Parts asked of one peer at once: enough to fill a line, half of what it lets one peer ask."""

LATE_S = 1.0
"""A source that has not begun to answer by then may be dead: the next one is asked beside it."""

MAX_KEPT_BYTES = 256 << 20


class Kept(Protocol):
    """Where parts lie until the blob that they make up is complete, by their hash."""

    async def get(self, digest: bytes) -> bytes | None: ...
    async def add(self, digest: bytes, data: bytes) -> None: ...
    async def discard(self, digest: bytes) -> None: ...


class KeptParts:
    """In memory, those of transfers that broke off. The oldest go when there are too many bytes."""

    def __init__(self, max_bytes: int = MAX_KEPT_BYTES) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._parts: OrderedDict[bytes, bytes] = OrderedDict()

    async def get(self, digest: bytes) -> bytes | None:
        return self._parts.get(digest)

    async def add(self, digest: bytes, data: bytes) -> None:
        if digest not in self._parts:
            self._parts[digest] = data
            self._num_bytes += len(data)
        while self._num_bytes > self._max_bytes:
            self._num_bytes -= len(self._parts.popitem(last=False)[1])

    async def discard(self, digest: bytes) -> None:
        self._num_bytes -= len(self._parts.pop(digest, b""))


class PartsOnDisk:
    """For whoever starts again after a crash. They stay until they are let go of: a blob that is complete in memory is
    not a durable one. When there are more than `max_bytes`, of lists that were lies, all go: the transfer that runs has
    its parts in memory too."""

    def __init__(self, pieces: Blobs, offload: Offload, max_bytes: int) -> None:
        self._pieces, self._offload, self._max_bytes = pieces, offload, max_bytes

    async def get(self, digest: bytes) -> bytes | None:
        try:
            return await self._offload(self._pieces.get, digest)
        except (BlobMissing, StoreCorrupt):
            return None

    async def add(self, digest: bytes, data: bytes) -> None:
        if self._pieces.total_bytes + len(data) > self._max_bytes:
            await self.keep_only()
        await self._offload(self._pieces.put_verified, digest, data)

    async def discard(self, digest: bytes) -> None:
        pass

    async def keep_only(self, wanted: Collection[bytes] = ()) -> None:
        """Let go of all others."""
        await self._offload(self._delete_others, frozenset(wanted))

    def _delete_others(self, wanted: frozenset[bytes]) -> None:
        for digest in [*self._pieces.hashes()]:
            if digest not in wanted:
                self._pieces.delete(digest)


async def fetch_blob(
    transport: Transport,
    sources: Sequence[PeerAddress],
    digest: bytes,
    num_bytes: int,
    kept: Kept | None = None,
) -> bytes:
    """A blob of exactly `num_bytes` by its BLAKE3. A small one from the first of `sources` that can deliver it.

    `BlobGone` if none does and one of them answered that it does not hold it.
    """
    faults: list[SpikemeshError] = []
    if num_bytes > PART_BYTES:
        data = await _Large(transport, digest, num_bytes, kept or KeptParts(num_bytes), faults).fetch(sources)
    else:
        data = await _small(transport, digest, num_bytes, sources, faults)
    if data is not None:
        return data
    kind = BlobGone if any(isinstance(fault, BlobGone) for fault in faults) else PeerUnreachable
    reason = faults[-1] if faults else "there is nobody to ask"
    raise kind(f"none of {len(sources)} peers delivered blob {digest.hex()[:8]} ({num_bytes} bytes): {reason}")


async def _small(
    transport: Transport, digest: bytes, num_bytes: int, sources: Sequence[PeerAddress], faults: list[SpikemeshError]
) -> bytes | None:
    """From the first source that delivers. The next one is asked when one has failed, or is late."""

    async def fetch(peer: PeerAddress) -> bytes | None:
        try:
            data = await _part(transport, peer, digest, 0, num_bytes, num_bytes)
            if blake3(data).digest() == digest:
                return data
            faults.append(InvalidData(f"the blob that peer {peer} sent has another hash"))
        except (PeerUnreachable, InvalidData) as error:
            faults.append(error)
        return None

    waiting, asked = [*sources], set[asyncio.Task[bytes | None]]()
    try:
        while waiting or asked:
            if waiting:
                asked.add(asyncio.create_task(fetch(waiting.pop(0))))
            done, asked = await asyncio.wait(
                asked, timeout=LATE_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                if (data := task.result()) is not None:
                    return data
        return None
    finally:
        for task in asked:
            task.cancel()


async def _prompt(tasks: Iterable[asyncio.Task[Result]]) -> set[asyncio.Task[Result]]:
    """The first of `tasks` to end, and those that end not later than it by `LATE_S`."""
    done, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    return done | (await asyncio.wait(late, timeout=LATE_S))[0] if late else done


async def _part(
    transport: Transport, peer: PeerAddress, digest: bytes, offset: int, length: int, num_bytes: int
) -> bytes:
    message = GetBlob(hash=digest, offset=offset, length=length)
    part = await ask(transport, peer, message, BlobPart, REQUEST_TIMEOUT_S + length / SLOWEST_BYTES_PER_S)
    if part.total_bytes != num_bytes or len(part.data) != length:
        raise InvalidData(
            f"peer {peer} sent {len(part.data)} of {part.total_bytes} bytes, expected {length} of {num_bytes}"
        )
    return part.data


class _Large:
    """One transfer of a blob of several parts."""

    def __init__(
        self, transport: Transport, digest: bytes, num_bytes: int, kept: Kept, faults: list[SpikemeshError]
    ) -> None:
        self._transport, self._digest, self._num_bytes = transport, digest, num_bytes
        self._kept, self._faults = kept, faults

    async def fetch(self, sources: Sequence[PeerAddress]) -> bytes | None:
        """The blob, or None; why not is in `faults`. Who is late to say what the parts are, is not waited for."""
        pending = {asyncio.create_task(self._list(peer)): peer for peer in sources}
        try:
            while pending:
                groups: dict[tuple[bytes, ...], list[PeerAddress]] = {}
                for task in await _prompt(pending):
                    peer = pending.pop(task)
                    if (hashes := task.result()) is not None:
                        groups.setdefault(hashes, []).append(peer)
                for hashes, peers in sorted(groups.items(), key=lambda group: -len(group[1])):
                    if (data := await self._fetch_listed(hashes, peers)) is None:
                        continue
                    if blake3(data).digest() == self._digest:
                        for part in hashes:
                            await self._kept.discard(part)
                        return data
                    self._fault(InvalidData(f"{len(peers)} peers gave false hashes for the parts of a blob"))
            return None
        finally:
            for task in pending:
                task.cancel()

    async def _list(self, peer: PeerAddress) -> tuple[bytes, ...] | None:
        try:
            reply = await ask(self._transport, peer, GetParts(hash=self._digest), Parts)
            if reply.total_bytes != self._num_bytes or len(reply.hashes) != -(-self._num_bytes // PART_BYTES):
                raise InvalidData(f"peer {peer} lists {len(reply.hashes)} parts of {reply.total_bytes} bytes")
        except (PeerUnreachable, InvalidData) as error:
            self._fault(error)
            return None
        return reply.hashes

    async def _fetch_listed(self, hashes: tuple[bytes, ...], peers: list[PeerAddress]) -> bytes | None:
        """All parts, each from whoever is free. None when every peer was dropped before the last part."""
        parts = {n: data for n, part in enumerate(hashes) if (data := await self._kept.get(part)) is not None}
        alive = {peer.id: peer for peer in peers}
        while alive and len(parts) < len(hashes):
            asked: dict[int, set[bytes]] = {n: set() for n in range(len(hashes)) if n not in parts}
            tasks = [
                asyncio.ensure_future(self._work(peer, alive, hashes, asked, parts))
                for peer in [*alive.values()]
                for _ in range(REQUESTS_PER_PEER)
            ]
            try:
                while tasks and asked:
                    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    tasks = [task for task in tasks if task not in done]
                    for task in done:
                        task.result()
            finally:
                for task in tasks:  # of slow peers, whose parts came from others meanwhile
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return b"".join(parts[n] for n in range(len(hashes))) if len(parts) == len(hashes) else None

    async def _work(
        self,
        peer: PeerAddress,
        alive: dict[bytes, PeerAddress],
        hashes: tuple[bytes, ...],
        asked: dict[int, set[bytes]],
        parts: dict[int, bytes],
    ) -> None:
        """Fetch until nothing is missing or the peer fails. What nobody was asked for comes first; at the end, what
        only others were: a part that a slow peer holds back is had from whoever is faster."""
        while peer.id in alive and (free := [n for n, peers in asked.items() if peer.id not in peers]):
            number = min(free, key=lambda n: (len(asked[n]), n))
            asked[number].add(peer.id)
            offset = number * PART_BYTES
            length = min(PART_BYTES, self._num_bytes - offset)
            try:
                data = await _part(self._transport, peer, self._digest, offset, length, self._num_bytes)
                if blake3(data).digest() != hashes[number]:
                    raise InvalidData(f"peer {peer} sent a part {number} that is not the one it listed")
            except (PeerUnreachable, InvalidData) as error:
                if alive.pop(peer.id, None) is not None:
                    self._fault(error)
                if number in asked:
                    asked[number].discard(peer.id)
                return
            if asked.pop(number, None) is not None:
                parts[number] = data
                await self._kept.add(hashes[number], data)

    def _fault(self, error: SpikemeshError) -> None:
        log.info("a transfer lost a source: %s", error)
        self._faults.append(error)
