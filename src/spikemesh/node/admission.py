"""The way in: signed bytes from a peer become records of the replica, or nothing.

Every record is validated, the blobs it needs are fetched and validated, both are made durable, and only then does the
replica, hence the next message to anybody, know of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from weakref import WeakValueDictionary

from blake3 import blake3

from spikemesh.codec import decode_record, max_delta_bytes
from spikemesh.crdt import Contribution, Record, Replica
from spikemesh.errors import BlobMissing, InvalidData, PeerUnreachable, StoreCorrupt
from spikemesh.node.calls import fetch_blob
from spikemesh.node.clock import Offload
from spikemesh.node.ledger import Ledger
from spikemesh.node.peers import PeerTable
from spikemesh.transport import PeerAddress, Transport

log = logging.getLogger("spikemesh.node")

MAX_FETCHES = 8
MAX_FETCHES_PER_SOURCE = 4
"""At a time. A source that is slow to answer takes up half of the places at most."""
MAX_BATCH_RECORDS = 64
"""Records that become durable in one transaction, so that a newcomer's history does not cost one each."""
MAX_OTHER_SOURCES = 3
MAX_REFUSED = 65_536


class Admission:
    """Serialises what changes the ledger. `changed` is called with the records of each insert."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        transport: Transport,
        peers: PeerTable,
        offload: Offload,
        changed: Callable[[list[Record]], None],
    ) -> None:
        self._ledger, self._transport, self._peers = ledger, transport, peers
        self._offload, self._changed = offload, changed
        self._lock = asyncio.Lock()
        self._fetches = asyncio.Semaphore(MAX_FETCHES)
        self._per_source: WeakValueDictionary[bytes, asyncio.Semaphore] = WeakValueDictionary()
        self._in_flight: set[bytes] = set()
        self._refused: OrderedDict[bytes, None] = OrderedDict()
        self.num_refused = 0
        self.num_deltas_fetched = 0

    async def admit(self, wires: Iterable[bytes], source: PeerAddress) -> None:
        """Take in what `source` sent. Invalid records are dropped; one whose blob nobody delivers may come again."""
        new = [wire for wire in wires if self._claim(wire)]
        try:
            records = [record for wire in new if (record := self._decode(wire, source)) is not None]
            for start in range(0, len(records), MAX_BATCH_RECORDS):
                await self._take(records[start : start + MAX_BATCH_RECORDS], source)
        finally:
            self._in_flight.difference_update(blake3(wire).digest() for wire in new)

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

    def _decode(self, wire: bytes, source: PeerAddress) -> Record | None:
        try:
            record = decode_record(wire, run_id=self._ledger.run_id)
            if isinstance(record.body, Contribution):
                limit = max_delta_bytes(self._ledger.num_coordinates)
                if record.body.delta_hash in self._refused:
                    return None
                if record.body.delta_bytes > limit:
                    raise InvalidData(f"a delta of {record.body.delta_bytes} bytes; this run's have at most {limit}")
        except InvalidData as error:
            self._refuse(blake3(wire).digest(), f"record from peer {source}", error)
            return None
        return None if record in self._ledger.replica.records else record

    async def adopt(self, snapshot: Replica) -> None:
        """Join a checked snapshot; durable when it returns."""
        async with self._lock:
            await self._offload(self._ledger.adopt, snapshot)

    async def _take(self, records: list[Record], source: PeerAddress) -> None:
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

    async def _fetch(self, contribution: Contribution, source: PeerAddress) -> bytes | None:
        """The checked blob of a contribution, or None when it could not be had now."""
        others = self._peers.sample(MAX_OTHER_SOURCES, without=source.id)
        own = self._per_source.setdefault(source.id, asyncio.Semaphore(MAX_FETCHES_PER_SOURCE))
        async with own, self._fetches:
            try:
                blob = await fetch_blob(
                    self._transport, [source, *others], contribution.delta_hash, contribution.delta_bytes
                )
                await self._offload(self._ledger.check_blob, contribution, blob)
            except PeerUnreachable as error:
                log.info("waiting for a delta: %s", error)
                return None
            except InvalidData as error:
                self._refuse(contribution.delta_hash, f"delta by {contribution.author.hex()[:8]}", error)
                return None
        self.num_deltas_fetched += 1
        return blob

    def _refuse(self, digest: bytes, what: str, error: InvalidData) -> None:
        """Never look at this record or delta again. The reasons are the same for everybody, so nobody holds it."""
        log.warning("refused a %s: %s", what, error)
        self.num_refused += 1
        self._refused[digest] = None
        while len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)
