"""The way in: signed bytes from a peer become records of the replica, or nothing.

Every record is validated, the blobs it needs are fetched and validated, both are made durable, and only then does the
replica, hence the next message to anybody, know of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import Protocol
from weakref import WeakValueDictionary

from blake3 import blake3

from spikemesh.codec import decode_record, max_delta_bytes
from spikemesh.crdt import Contribution, Record, Replica
from spikemesh.errors import BlobGone, BlobMissing, InvalidData, StoreCorrupt, TransportError
from spikemesh.node.clock import Offload
from spikemesh.node.ledger import Ledger
from spikemesh.node.peers import PeerTable
from spikemesh.node.transfer import KeptParts, fetch_blob
from spikemesh.transport import PeerAddress, Transport

log = logging.getLogger("spikemesh.node")

MAX_FETCHES = 8
MAX_FETCHES_PER_SOURCE = 4
"""At a time. A source that is slow to answer takes up half of the places at most."""
MAX_BATCH_RECORDS = 64
"""Records that become durable in one transaction, so that a newcomer's history does not cost one each."""
MAX_OTHER_SOURCES = 3
MAX_REFUSED = 65_536


class BlobSource(Protocol):
    """Where deltas lie beside the peers: a bucket."""

    async def blob(self, digest: bytes, num_bytes: int) -> bytes:
        """The blob of that hash and length; `TransportError` when it cannot be had now."""
        ...


class Admission:
    """Serialises what changes the ledger.

    `changed` is called with the records of each insert, `behind` with a peer that told of a record whose delta nobody
    keeps any more.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        transport: Transport,
        peers: PeerTable,
        offload: Offload,
        changed: Callable[[list[Record]], None],
        behind: Callable[[PeerAddress], None],
    ) -> None:
        self._ledger, self._transport, self._peers = ledger, transport, peers
        self._offload, self._changed, self._behind = offload, changed, behind
        self._lock = asyncio.Lock()
        self._fetches = asyncio.Semaphore(MAX_FETCHES)
        self._per_source: WeakValueDictionary[bytes, asyncio.Semaphore] = WeakValueDictionary()
        self._in_flight: set[bytes] = set()
        self._refused: OrderedDict[bytes, None] = OrderedDict()
        self._kept = KeptParts()
        self._open = asyncio.Event()
        self._open.set()
        self.buckets: list[BlobSource] = []
        self.num_refused = 0
        self.num_deltas_fetched = 0

    async def admit(self, wires: Iterable[bytes], source: PeerAddress | BlobSource) -> None:
        """Take in what `source` sent. Invalid records are dropped; one whose blob nobody delivers may come again."""
        await self.opened()
        new = [wire for wire in wires if self._claim(wire)]
        try:
            records = [record for wire in new if (record := self._decode(wire, source)) is not None]
            for start in range(0, len(records), MAX_BATCH_RECORDS):
                await self._take(records[start : start + MAX_BATCH_RECORDS], source)
        finally:
            self._in_flight.difference_update(blake3(wire).digest() for wire in new)

    @contextlib.contextmanager
    def closed(self, longest_s: float) -> Iterator[None]:
        """Let `admit` wait for the end of the block, and at most `longest_s`. Snapshots and own records pass."""
        self._open.clear()
        timer = asyncio.get_running_loop().call_later(longest_s, self._open.set)
        try:
            yield
        finally:
            timer.cancel()
            self._open.set()

    async def opened(self) -> None:
        """Returns when `admit` waits for nothing."""
        await self._open.wait()

    async def publish(self, record: Record, blobs: dict[bytes, bytes]) -> None:
        """`insert` for an own record, with whatever else it needs fetched first; `BlobMissing` if nobody has that."""
        for contribution in self._ledger.needed([record]):
            if contribution.delta_hash not in blobs:
                try:
                    blob = await self._blob(contribution.delta_hash, contribution.delta_bytes, None)
                except TransportError as error:
                    raise BlobMissing(
                        f"The delta {contribution.delta_hash.hex()[:8]} that this record takes back is kept by nobody "
                        "who answers, so it counts for good. Retract earlier, or keep more (--keep-gb)."
                    ) from error
                await self._offload(self._ledger.check_blob, contribution, blob)
                blobs = {**blobs, contribution.delta_hash: blob}
        await self.insert([record], blobs)

    async def insert(self, records: list[Record], blobs: dict[bytes, bytes]) -> None:
        """Make checked records and blobs durable and part of the replica; on disk before it returns."""
        async with self._lock:
            await self._offload(self._ledger.insert, records, blobs)
        self._changed(records)

    def _claim(self, wire: bytes) -> bool:
        digest = blake3(wire).digest()
        if digest in self._in_flight or digest in self._refused:
            return False
        self._in_flight.add(digest)
        return True

    def _decode(self, wire: bytes, source: PeerAddress | BlobSource) -> Record | None:
        try:
            record = decode_record(wire, run_id=self._ledger.run_id)
            if isinstance(record.body, Contribution):
                limit = max_delta_bytes(self._ledger.num_coordinates)
                if record.body.delta_hash in self._refused:
                    return None
                if record.body.delta_bytes > limit:
                    raise InvalidData(f"a delta of {record.body.delta_bytes} bytes; this run's have at most {limit}")
        except InvalidData as error:
            self._refuse(blake3(wire).digest(), f"record from {source}", error)
            return None
        return None if record in self._ledger.replica.records else record

    async def adopt(self, snapshot: Replica) -> None:
        """Join a checked snapshot; durable when it returns."""
        async with self._lock:
            await self._offload(self._ledger.adopt, snapshot)

    async def _take(self, records: list[Record], source: PeerAddress | BlobSource) -> None:
        needed = self._ledger.needed(records)
        fetched = await asyncio.gather(*(self._fetch(contribution, source) for contribution in needed))
        blobs = {c.delta_hash: blob for c, blob in zip(needed, fetched, strict=True) if blob is not None}
        if len(blobs) < len(needed):
            records = self._complete(records, blobs)
        try:
            if records:
                await self.insert(records, blobs)
        except (BlobMissing, StoreCorrupt) as error:
            log.warning("%d records wait for a delta: %s", len(records), error)

    def _complete(self, records: list[Record], blobs: dict[bytes, bytes]) -> list[Record]:
        """Those of `records` that can be inserted with these blobs; the others come again in a later exchange."""
        ready: list[Record] = []
        for record in records:
            if all(contribution.delta_hash in blobs for contribution in self._ledger.needed([*ready, record])):
                ready.append(record)
        return ready

    async def _fetch(self, contribution: Contribution, source: PeerAddress | BlobSource) -> bytes | None:
        """The checked blob of a contribution, or None when it could not be had now."""
        origin = source.id if isinstance(source, PeerAddress) else b"bucket"
        own = self._per_source.setdefault(origin, asyncio.Semaphore(MAX_FETCHES_PER_SOURCE))
        async with own, self._fetches:
            try:
                blob = await self._blob(contribution.delta_hash, contribution.delta_bytes, source)
                await self._offload(self._ledger.check_blob, contribution, blob)
            except BlobGone as error:
                log.info("beyond the window: %s", error)
                if isinstance(source, PeerAddress):
                    self._behind(source)
                return None
            except TransportError as error:
                log.info("waiting for a delta: %s", error)
                return None
            except InvalidData as error:
                self._refuse(contribution.delta_hash, f"delta by {contribution.author.hex()[:8]}", error)
                return None
        self.num_deltas_fetched += 1
        return blob

    async def _blob(self, digest: bytes, num_bytes: int, source: PeerAddress | BlobSource | None) -> bytes:
        """From whoever told of it, if anybody did, then from other peers, then from the buckets."""
        peers = [source] if isinstance(source, PeerAddress) else []
        peers += self._peers.sample(MAX_OTHER_SOURCES, without=peers[0].id if peers else b"")
        from_peers = partial(fetch_blob, self._transport, peers, kept=self._kept)
        buckets = sorted(self.buckets, key=lambda bucket: bucket is not source)
        ordered: list[Callable[[bytes, int], Awaitable[bytes]]] = [from_peers, *(bucket.blob for bucket in buckets)]
        if source in buckets:
            ordered[:2] = reversed(ordered[:2])
        reason: TransportError | None = None
        for fetch in ordered:
            try:
                return await fetch(digest, num_bytes)
            except TransportError as error:
                reason = reason if isinstance(reason, BlobGone) else error
        assert reason is not None
        raise reason

    def _refuse(self, digest: bytes, what: str, error: InvalidData) -> None:
        """Never look at this record or delta again. The reasons are the same for everybody, so nobody holds it."""
        log.warning("refused a %s: %s", what, error)
        self.num_refused += 1
        self._refused[digest] = None
        while len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)
