"""Gossip through a bucket: what a volunteer needs who can reach a shared folder and nobody else.

genesis                                 the run's description; its hash names the folder
blobs/<hash>                            deltas, the run's start, pieces of snapshots
records/<author>/<number>-<id>          one signed record each
snapshots/<2^40 - records>-<hash>       the names of a snapshot's pieces, as in the message; the newest comes first
vouches/<set digest>/<author>           a signed word for the sum that belongs to a set of records
wanted/<hash>                           somebody needs this blob and does not find it; who holds it writes it again

An object never changes: its name follows from its bytes. A blob is there before the record that names it. Anybody may
write anything, so everything read passes the same admission as from a peer. Who can write to the bucket can also fill
or empty it, which costs time and never correctness.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spikemesh.codec import (
    MAX_MESSAGE_BYTES,
    MAX_RECORD_BYTES,
    VOUCH_BYTES,
    Snapshot,
    decode_message,
    encode_message,
    read_vouch,
    sign_vouch,
)
from spikemesh.codec.records import SIGNATURE_BYTES
from spikemesh.crdt import Contribution, Record
from spikemesh.errors import BlobMissing, InvalidData, StoreCorrupt, TransportError
from spikemesh.node.bucket_calls import BucketCalls
from spikemesh.node.snapshot import MAX_VOUCHERS, check_offer, fetch_snapshot
from spikemesh.node.statistics import BucketStatistics

if TYPE_CHECKING:
    from spikemesh.node.node import Node

log = logging.getLogger("spikemesh.node")

MAX_AUTHORS_PAGE = 1000
MAX_PAGES = 64
"""Pages of one author's records that one look reads."""
MAX_TAKEN = 1024
"""Records that one look takes in; the next look goes on."""
MAX_OFFERS = 4
MAX_WANTED = 16
FULL_EVERY = 16
"""Looks between two that compare everything: they see what vanished, and a second record under an old number."""
SNAPSHOT_EVERY = 64
"""Contributions that the newest snapshot in the bucket may lack before a volunteer writes another."""
CONCURRENT = 4
BEHIND_AFTER = 3
MAX_PUT_OFF = 65_536
MAX_BACKOFF = 8

_RECORD = re.compile(r"([0-9]{7})-([0-9a-f]{64})")
_OFFER = re.compile(r"[0-9]{13}-([0-9a-f]{64})")
_HASH = re.compile(r"[0-9a-f]{64}")
_NEWEST_FIRST = 1 << 40


@dataclass(frozen=True, kw_only=True)
class BucketConfig:
    """Seconds between two looks: the first, doubled while nothing is new up to the second."""

    period_s: float = 5.0
    longest_period_s: float = 60.0


class BucketGossip:
    """Keeps one node and one bucket equal."""

    def __init__(
        self,
        *,
        calls: BucketCalls,
        node: Node,
        private_key: Ed25519PrivateKey,
        rng: random.Random,
        config: BucketConfig | None = None,
    ) -> None:
        self._calls, self._ledger, self._admission = calls, node.ledger, node.admission
        self._snapshots, self._clock, self._disk = node.snapshots, node.clock, node.offload
        self._key, self._rng = private_key, rng
        self._config = config or BucketConfig()
        self._me = private_key.public_key().public_bytes_raw()
        self._news = asyncio.Event()
        self._busy = asyncio.Lock()
        self._there: set[bytes] = set()
        self._waiting: set[bytes] = set()
        self._vouched: set[bytes] = set()
        self._confirmed: set[bytes] = set()
        self._put_off_to: dict[bytes, tuple[int, int]] = {}
        self._author_cursor = ""
        self._num_looks = 0
        self.num_put = self.num_taken = self.num_vouchers = 0
        self.problem: str | None = "not looked into yet"

    def __str__(self) -> str:
        return str(self._calls)

    def statistics(self) -> BucketStatistics:
        return BucketStatistics(url=str(self), num_put=self.num_put, num_taken=self.num_taken, problem=self.problem)

    def announce(self) -> None:
        """There is news: own records go out without waiting for the next look."""
        self._news.set()

    async def run(self) -> None:
        """Look and put until cancelled. What the bucket does wrong is told in `problem` and tried again."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look_forever())
            group.create_task(self._put_forever())

    async def _look_forever(self) -> None:
        wait_s = self._config.period_s
        while True:
            await self._clock.sleep(wait_s * self._rng.uniform(0.75, 1.25))
            before = self.num_put + self.num_taken
            await self.look()
            busy = self.problem is None and self.num_put + self.num_taken > before
            wait_s = self._config.period_s if busy else min(2 * wait_s, self._config.longest_period_s)

    async def _put_forever(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await self._guarded(self._put_own)

    async def look(self) -> bool:
        """Take in what is new in the bucket, put there what it lacks. False when it cannot be used now."""
        return await self._guarded(self._look)

    async def _guarded(self, work: Callable[[], Awaitable[Any]]) -> bool:
        async with self._busy:
            try:
                await work()
            except (TransportError, InvalidData) as error:
                if self.problem != str(error):
                    log.warning("%s", error)
                self.problem = str(error)
                return False
        self.problem = None
        return True

    # --- taking

    async def _look(self) -> None:
        full = self._num_looks % FULL_EVERY == 0
        self._num_looks += 1
        if full:
            self._there.clear()
            genesis = self._ledger.genesis
            await self._calls.found(genesis, lambda: self._held(genesis.init_hash))
        wanted = [await self._compare(author, full) for author in await self._authors()]
        in_turn = chain.from_iterable(zip_longest(*wanted))  # nobody's ten thousand records keep out another's one
        await self._take([item for item in in_turn if item is not None][:MAX_TAKEN])
        if self._is_behind():
            await self.adopt_snapshot()
        await self._put_lacking()
        await self._answer_wanted()
        await self._tend_snapshots()

    async def _authors(self) -> list[bytes]:
        """The authors that are known here, and those of the next page of the bucket's."""
        page = await self._calls.page("records", self._author_cursor, MAX_AUTHORS_PAGE)
        self._author_cursor = page[-1][0] if len(page) == MAX_AUTHORS_PAGE else ""
        found = {bytes.fromhex(name) for name, _ in page if _HASH.fullmatch(name)}
        return sorted(found | self._ledger.replica.records.logs.keys())

    async def _compare(self, author: bytes, full: bool) -> list[tuple[str, bytes]]:
        """Names of this author's records that are there and not here; those that are both are remembered."""
        records = self._ledger.replica.records
        held = {record.id: record for log in (records.logs.get(author, {}),) for rs in log.values() for record in rs}
        after = "" if full else f"{records.context.prefix(author) + 1:07d}"
        wanted: list[tuple[str, bytes]] = []
        for _ in range(MAX_PAGES):
            page = await self._calls.page(f"records/{author.hex()}", after)
            for name, num_bytes in page:
                match = _RECORD.fullmatch(name)
                record_id = bytes.fromhex(match[2]) if match else b""
                if (record := held.get(record_id)) is not None:
                    if num_bytes == len(record.wire):  # another length is a part of an upload: written again
                        self._there.add(record_id)
                elif match and SIGNATURE_BYTES < num_bytes <= MAX_RECORD_BYTES and self._is_due(record_id):
                    wanted.append((f"records/{author.hex()}/{name}", record_id))
            if len(page) < MAX_AUTHORS_PAGE:
                break
            after = page[-1][0]
        return wanted

    async def _take(self, wanted: list[tuple[str, bytes]]) -> None:
        wires = []
        for start in range(0, len(wanted), CONCURRENT):
            part = wanted[start : start + CONCURRENT]
            wires += await asyncio.gather(*(self._record(name, record_id) for name, record_id in part))
        before = len(self._ledger.replica.records)
        await self._admission.admit([wire for wire in wires if wire is not None], self)
        self.num_taken += len(self._ledger.replica.records) - before
        held = {record.id for record in self._ledger.replica.records}
        for _, record_id in wanted:
            self._put_off(record_id, record_id in held)

    def _is_behind(self) -> bool:
        """Something was asked for often in vain: its delta may be kept by nobody, and a snapshot stands for it."""
        due = [
            failures for failures, look in self._put_off_to.values() if look == self._num_looks + 2 ** (failures - 1)
        ]
        return max(due, default=0) >= BEHIND_AFTER

    def _is_due(self, record_id: bytes) -> bool:
        return self._put_off_to.get(record_id, (0, 0))[1] <= self._num_looks

    def _put_off(self, record_id: bytes, taken: bool) -> None:
        """What could not be taken in is read again after 1, 2, 4, ... looks: it may be whole then, or never."""
        failures, _ = self._put_off_to.pop(record_id, (0, 0))
        if not taken:
            self._put_off_to[record_id] = failures + 1, self._num_looks + 2 ** min(failures, MAX_BACKOFF)
            if len(self._put_off_to) > MAX_PUT_OFF:
                del self._put_off_to[next(iter(self._put_off_to))]

    async def _record(self, name: str, record_id: bytes) -> bytes | None:
        """The bytes under a record's name if they are what it says: a part of an upload is not refused for ever."""
        try:
            wire = await self._calls.get(name, MAX_RECORD_BYTES)
        except InvalidData:
            return None
        return wire if wire and blake3(wire[SIGNATURE_BYTES:]).digest() == record_id else None

    async def blob(self, digest: bytes, num_bytes: int) -> bytes:
        """For the admission: a blob, or a request for it that others will find."""
        try:
            return await self._calls.blob(digest, num_bytes)
        except TransportError:
            await self._calls.put(f"wanted/{digest.hex()}", b"?")
            raise

    # --- putting

    async def _put_own(self) -> None:
        await self._put(self._lacking(own=True))

    async def _put_lacking(self) -> None:
        """Own records at once; those of others when the bucket lacked them at the last look too, since their
        authors may be about to write them."""
        await self._put_own()
        lacking = list(self._lacking(own=False))
        await self._put(record for record in lacking if record.id in self._waiting)
        self._waiting = {record.id for record in lacking}

    def _lacking(self, *, own: bool) -> Iterable[Record]:
        records = self._ledger.replica.records
        for author, held in sorted(records.logs.items()):
            if (author == self._me) == own:
                for seq in sorted(held):
                    yield from (record for record in held[seq] if record.id not in self._there)

    async def _put(self, records: Iterable[Record]) -> None:
        for record in list(records):
            if isinstance(record.body, Contribution) and record.id in self._ledger.replica.records.visible:
                blob = await self._held(record.body.delta_hash)
                if blob is None:
                    continue  # folded into a snapshot, here as for whoever comes
                await self._calls.put(f"blobs/{record.body.delta_hash.hex()}", blob)
            await self._calls.put(f"records/{record.author.hex()}/{record.seq:07d}-{record.id.hex()}", record.wire)
            self._there.add(record.id)
            self.num_put += 1

    async def _held(self, digest: bytes) -> bytes | None:
        try:
            return await self._disk(self._ledger.store.blobs.get, digest)
        except (BlobMissing, StoreCorrupt):
            return self._snapshots.part(digest)

    async def _answer_wanted(self) -> None:
        for name, _ in await self._calls.page("wanted", limit=MAX_WANTED):
            if not _HASH.fullmatch(name):
                continue
            blob = await self._held(bytes.fromhex(name))
            if blob is not None:
                await self._calls.put(f"blobs/{name}", blob)
                await self._calls.delete(f"wanted/{name}")

    # --- snapshots

    async def _offers(self) -> list[Snapshot]:
        """The newest snapshots in the bucket that can be read and fit this run."""
        offers = []
        for name, num_bytes in await self._calls.page("snapshots", limit=MAX_OFFERS):
            match = _OFFER.fullmatch(name)
            if match is None or num_bytes > MAX_MESSAGE_BYTES:
                continue
            try:
                data = await self._calls.get(f"snapshots/{name}", MAX_MESSAGE_BYTES)
                if data is None or blake3(data).hexdigest() != match[1]:
                    continue
                offer = decode_message(data)
                if isinstance(offer, Snapshot):
                    check_offer(offer, self._ledger, str(self))
                    offers.append(offer)
            except InvalidData as error:
                log.info("not a snapshot of this run: %s", error)
        return offers

    async def _tend_snapshots(self) -> None:
        """Vouch for the snapshots whose records gave this node a sum; write one when all there are old."""
        offers = await self._offers()
        for offer in offers:
            mine = self._ledger.vouch(offer.set_digest)
            if mine is not None and offer.set_digest not in self._vouched:
                await self._vouch(offer.set_digest, mine)
            unconfirmed = mine == offer.sum_digest and offer.set_digest not in self._confirmed
            if unconfirmed and (await self._vouchers(offer) or 0) > 1:
                self._ledger.confirm(offer.set_digest)
                self._confirmed.add(offer.set_digest)
        num_mine = len(self._ledger.replica.records)
        page = await self._calls.page("snapshots", limit=1) if offers else []
        num_theirs = max((_NEWEST_FIRST - int(name[:13]) for name, _ in page if _OFFER.fullmatch(name)), default=0)
        if num_mine - num_theirs >= SNAPSHOT_EVERY * self._rng.uniform(1.0, 2.0):
            await self._write_snapshot(num_mine)

    async def _write_snapshot(self, num_records: int) -> None:
        offer = self._snapshots.offer()
        for digest in dict.fromkeys((offer.records_hash, *offer.chunk_hashes)):
            part = self._snapshots.part(digest)
            if part is None:
                return  # pushed out of memory by newer ones: the next look makes another
            await self._calls.put(f"blobs/{digest.hex()}", part)
        await self._vouch(offer.set_digest, offer.sum_digest)
        data = encode_message(offer)
        name = f"{_NEWEST_FIRST - num_records:013d}-{blake3(data).hexdigest()}"
        await self._calls.put(f"snapshots/{name}", data)

    async def _vouch(self, set_digest: bytes, sum_digest: bytes) -> None:
        data = sign_vouch(self._ledger.run_id, set_digest, sum_digest, self._key)
        await self._calls.put(f"vouches/{set_digest.hex()}/{self._me.hex()}", data)
        self._vouched.add(set_digest)

    async def adopt_snapshot(self) -> bool:
        """Join the newest snapshot that two volunteers vouch for, else the newest; False without any.

        Who has records to lose takes one that a single volunteer vouches for only where there is nobody else.
        """
        try:
            offers = [(offer, await self._vouchers(offer)) for offer in await self._offers()]
            agreed = [(offer, count) for offer, count in offers if count is not None]
            for offer, count in sorted(agreed, key=lambda pair: -min(pair[1], 2)):
                others = self._ledger.replica.records.logs.keys() - {self._me}
                if count < 2 <= len(others):
                    continue
                replica = await fetch_snapshot(self._calls.blob, self._ledger, offer)
                await self._admission.adopt(replica)
                self.num_vouchers = max(0, count - 1)  # one of them wrote it
                return True
        except (TransportError, InvalidData, BlobMissing) as error:
            log.info("no snapshot: %s", error)
        return False

    async def _vouchers(self, offer: Snapshot) -> int | None:
        """How many volunteers signed for the offered sum; None if one signed for another."""
        count = 0
        folder = f"vouches/{offer.set_digest.hex()}"
        for name, num_bytes in await self._calls.page(folder, limit=MAX_VOUCHERS):
            if not _HASH.fullmatch(name) or num_bytes != VOUCH_BYTES:
                continue
            data = await self._calls.get(f"{folder}/{name}", VOUCH_BYTES)
            try:
                theirs = read_vouch(
                    data or b"", run_id=self._ledger.run_id, set_digest=offer.set_digest, author=bytes.fromhex(name)
                )
            except InvalidData:
                continue
            if theirs != offer.sum_digest:
                log.error("%s holds two sums for the same records: that snapshot is not taken", self)
                return None
            count += 1
        return count
