"""A node: one replica, kept equal with others. It trains nothing; `Volunteer` does, on top of it.

It is handed everything that touches the world: ledger (disk), transport (network), clock and rng.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence

from blake3 import blake3

from spikemesh.codec import (
    MAX_PART_BYTES,
    PART_BYTES,
    BlobPart,
    GenesisReply,
    GetBlob,
    GetGenesis,
    GetParts,
    GetSnapshot,
    Hello,
    Message,
    Parts,
    Refused,
    Vouch,
    Vouched,
    Welcome,
    decode_message,
    encode_genesis,
    encode_message,
)
from spikemesh.crdt import Record, SyncMessage
from spikemesh.errors import BlobMissing, Divergence, InvalidData, PeerUnreachable
from spikemesh.node.admission import Admission
from spikemesh.node.bucket import BucketGossip
from spikemesh.node.calls import MISSING
from spikemesh.node.clock import Clock, Offload, in_thread
from spikemesh.node.gossip import Gossip, GossipConfig
from spikemesh.node.ledger import Ledger
from spikemesh.node.offers import SnapshotDesk
from spikemesh.node.peers import PeerTable, address_of, info_of
from spikemesh.node.snapshot import (
    MAX_SOURCES,
    MAX_VOUCHERS,
    Pieces,
    ask_for_offer,
    begun,
    fetch_snapshot,
    offering,
    vouchers,
)
from spikemesh.transport import PeerAddress, Transport

log = logging.getLogger("spikemesh.node")

NUM_WELCOME_PEERS = 8
"""Told to whoever says hello, at random: everybody says it often, and who is told of all meets the same few."""
MAX_GREETED = 16
"""Contacts greeted at once on the way in; the others are met by gossip."""
GREET_S = 0.5
SNAPSHOT_TRIES = 5
CATCH_UP_PAUSE_S = 5.0
LONGEST_CATCH_UP_PAUSE_S = 320.0
"""Between two snapshots that a node which is behind takes over: the first, doubled while they do not help. Each may
cost the whole sum, and whoever names a record and withholds its delta makes us ask."""
MAX_PART_LISTS = 64

SNAPSHOT_FIRST_S = 600.0
"""So long a newcomer lets gossip wait for its snapshot. A source that sends too slowly must not keep others away."""
SNAPSHOT_SOURCES = 3
"""Contacts that are asked for a snapshot, one after the other; what none of these delivers comes by gossip."""
CATCH_UP_S = 30.0
"""So long a newcomer waits for what happened before it trains; gossip brings the rest meanwhile."""
SNAPSHOT_WORTH_BYTES = 2048
"""Of records, about eight. The deltas of fewer are fetched one by one: less to download than a sum of 8 bytes a
coordinate, of which a delta of the top quarter has 0.23."""


class Door:
    """The handler a transport is opened with before there is a node behind it."""

    def __init__(self) -> None:
        self._handler: Callable[[bytes, bytes], Awaitable[bytes]] | None = None

    def open_to(self, handler: Callable[[bytes, bytes], Awaitable[bytes]]) -> None:
        self._handler = handler

    async def __call__(self, peer_id: bytes, request: bytes) -> bytes:
        if self._handler is None:
            return encode_message(Refused(reason="starting", text="this node is still starting; try again"))
        return await self._handler(peer_id, request)


class Node:
    def __init__(
        self,
        *,
        ledger: Ledger,
        transport: Transport,
        clock: Clock,
        rng: random.Random,
        gossip: GossipConfig | None = None,
        offload: Offload = in_thread,
    ) -> None:
        self.ledger, self.transport, self.clock, self.offload = ledger, transport, clock, offload
        self.id = transport.address.id
        self.peers = PeerTable(self.id, clock, rng)
        self.admission = Admission(
            ledger=ledger,
            transport=transport,
            peers=self.peers,
            offload=offload,
            changed=self._changed,
            behind=self._fall_behind,
        )
        self.gossip = Gossip(
            config=gossip or GossipConfig(),
            hello=self._hello,
            ledger=ledger,
            admission=self.admission,
            peers=self.peers,
            transport=transport,
            clock=clock,
            rng=rng,
        )
        self.num_vouchers = 0
        self.started_from_snapshot = False
        self.snapshots = SnapshotDesk(ledger, clock)
        self.buckets: list[BucketGossip] = []
        self._ahead: PeerAddress | None = None
        self._is_behind = asyncio.Event()
        self._part_lists: dict[bytes, Parts] = {}

    async def run(self) -> None:
        """Gossip until cancelled. Raises what the disk raises; a peer's faults never end it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.gossip.push_forever())
            group.create_task(self.gossip.reconcile_forever())
            group.create_task(self.gossip.admit_forever())
            group.create_task(self._catch_up_forever())
            for bucket in self.buckets:
                group.create_task(bucket.run())

    def _fall_behind(self, peer: PeerAddress) -> None:
        self._ahead = peer  # one is enough: the next exchange names another if this one does not help
        self._is_behind.set()

    async def _catch_up_forever(self) -> None:
        """After longer than the window without news, the deltas in between are kept by nobody: take a snapshot."""
        pause_s = CATCH_UP_PAUSE_S
        while True:
            await self._is_behind.wait()
            self._is_behind.clear()
            assert self._ahead is not None
            before = self.ledger.replica
            try:
                await self._adopt_snapshot(self._ahead)
            except (PeerUnreachable, InvalidData, Divergence, BlobMissing) as error:
                log.warning("behind, and no snapshot from %s: %s", self._ahead, error)
            helped = self.ledger.replica is not before
            pause_s = CATCH_UP_PAUSE_S if helped else min(2 * pause_s, LONGEST_CATCH_UP_PAUSE_S)
            await self.clock.sleep(pause_s)

    def add_bucket(self, bucket: BucketGossip) -> None:
        """Exchange with a bucket too, from `enter` and `run` on: what comes by one way leaves by the other."""
        self.buckets.append(bucket)
        self.admission.buckets.append(bucket)

    async def publish(self, record: Record, blobs: dict[bytes, bytes]) -> None:
        """Make an own record part of the run: durable here first, then told to others.

        A retraction needs the bytes of what it takes back; beyond the window they may be kept by nobody any more.
        Then `BlobMissing`, and nothing was published.
        """
        await self.admission.publish(record, blobs)

    async def enter(self, contacts: tuple[PeerAddress, ...]) -> int:
        """Greet `contacts`, look into the buckets, catch up with whoever answers; returns how many did.

        A node without any history takes a snapshot first. What gossip brings meanwhile waits: the snapshot most likely
        holds it, and a delta at a time it would cost more. If nobody delivers one, gossip brings the history.
        """
        for address in contacts:
            self.peers.learn(address)  # who does not answer now is tried again later
        if len(self.ledger.replica.records):
            answered = await self._greet(contacts[:MAX_GREETED])
        else:
            with self.admission.closed(SNAPSHOT_FIRST_S):
                answered = await self._greet(contacts[:MAX_GREETED])
                await self._start_from_snapshot(answered[:SNAPSHOT_SOURCES])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_S):
                for peer in filter(None, (self.peers.get(address.id) for address in answered)):
                    await self.gossip.exchange(peer)
        return len(answered) + sum([await bucket.look() for bucket in self.buckets])

    async def _start_from_snapshot(self, peers: Sequence[PeerAddress]) -> None:
        """The first that anybody delivers: a peer, else a bucket."""
        for address in peers:
            try:
                return await self._adopt_snapshot(address)
            except (PeerUnreachable, InvalidData, BlobMissing) as error:
                log.info("no snapshot: %s", error)
        for bucket in self.buckets:
            if await bucket.adopt_snapshot():
                self.started_from_snapshot, self.num_vouchers = True, bucket.num_vouchers
                return

    async def _greet(self, contacts: tuple[PeerAddress, ...]) -> list[PeerAddress]:
        """Who of them answers. Some are always gone, so once one has, the others have `GREET_S` more."""
        tasks = {asyncio.ensure_future(self.gossip.greet(address)): address for address in contacts}
        pending, end_s = set(tasks), math.inf
        try:
            while pending and (left_s := end_s - self.clock.monotonic_s()) > 0:
                timeout_s = None if left_s == math.inf else left_s
                done, pending = await asyncio.wait(pending, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if end_s == math.inf and any(task.result() for task in done):
                    end_s = self.clock.monotonic_s() + GREET_S
        finally:
            for task in pending:
                task.cancel()
        return [address for task, address in tasks.items() if task not in pending and task.result()]

    async def _adopt_snapshot(self, peer: PeerAddress) -> None:
        """Take over a peer's sum, vouched for by another peer where one passed through the same set of records.

        A newcomer that finds no voucher takes the newest; a node that has something to lose does not, unless nobody
        else answers.
        """
        others = tuple(address for address in self.peers.addresses() if address.id != peer.id)
        wanted = await self.offload(begun, self.ledger.store)
        for attempt in range(SNAPSHOT_TRIES):
            offer = await ask_for_offer(self.transport, peer, self.ledger, wanted)
            if offer.records_bytes < SNAPSHOT_WORTH_BYTES and not len(self.ledger.replica.records):
                return
            asked = others
            self.num_vouchers, others = await vouchers(self.transport, asked, offer)
            if len(others) < len(asked[:MAX_VOUCHERS]):
                continue  # waiting for the silent took so long that the offer may be gone
            if self.num_vouchers or not others:
                break
            await self.clock.sleep(0.2 * 2**attempt)
        else:
            if len(self.ledger.replica.records):
                raise InvalidData(f"nobody vouches for the snapshot of {peer}")
        log.info("fetching a snapshot of %.1f MB", (offer.records_bytes + 8 * self.ledger.num_coordinates) / 1e6)
        same = await offering(self.transport, others[: MAX_SOURCES - 1], self.ledger, offer)
        pieces = Pieces(self.ledger, self.transport, self.offload, offer, (peer, *same))
        await pieces.begin()
        await self.admission.adopt(await fetch_snapshot(pieces.fetch, self.ledger, offer))
        await pieces.end()
        self.started_from_snapshot = True

    async def serve(self, peer_id: bytes, request: bytes) -> bytes:
        """The transport's handler: one request, one reply."""
        try:
            reply = await self._answer(peer_id, decode_message(request))
        except InvalidData as error:
            reply = Refused(reason="invalid", text=str(error))
        return encode_message(reply)

    async def _answer(self, peer_id: bytes, message: Message) -> Message:
        match message:
            case SyncMessage():
                return self.gossip.answer_sync(peer_id, message)
            case GetBlob():
                return await self.offload(self._blob_part, message)
            case GetParts():
                return await self.offload(self._parts, message)
            case Hello():
                return self._welcome(peer_id, message)
            case GetGenesis() | GetSnapshot() if message.run_id != self.ledger.run_id:
                return Refused(reason="run", text=f"this node takes part in run {self.ledger.run_id.hex()[:8]}")
            case GetGenesis():
                return GenesisReply(data=encode_genesis(self.ledger.genesis))
            case GetSnapshot():
                return self.snapshots.offer(message.wanted)
            case Vouch():
                return Vouched(sum_digest=self.ledger.vouch(message.set_digest))
            case _:
                return Refused(reason="kind", text=f"a {type(message).__name__} is not a request")

    def _hello(self) -> Hello:
        return Hello(run_id=self.ledger.run_id, address=info_of(self.transport.address))

    def _welcome(self, peer_id: bytes, hello: Hello) -> Message:
        if hello.run_id != self.ledger.run_id:
            return Refused(reason="run", text=f"this node takes part in run {self.ledger.run_id.hex()[:8]}")
        if hello.address.id != peer_id:
            return Refused(reason="identity", text="the hello names another key than the connection")
        known = self.peers.sample(NUM_WELCOME_PEERS, without=peer_id)
        self.peers.learn(address_of(hello.address))
        self.peers.succeeded(peer_id)
        return Welcome(peers=tuple(map(info_of, known)))

    def _blob_part(self, wanted: GetBlob) -> Message:
        length = min(wanted.length, MAX_PART_BYTES)
        held = self.snapshots.part(wanted.hash)
        if held is not None:
            return BlobPart(data=held[wanted.offset : wanted.offset + length], total_bytes=len(held))
        try:
            blobs = self.ledger.store.blobs
            return BlobPart(
                data=blobs.read_range(wanted.hash, wanted.offset, length), total_bytes=blobs.size(wanted.hash)
            )
        except BlobMissing:
            return Refused(reason=MISSING, text=f"this node does not hold blob {wanted.hash.hex()[:8]}")

    def _parts(self, wanted: GetParts) -> Message:
        """The hashes of a blob's parts. The last lists are remembered, so that asking again costs no reading."""
        known = self._part_lists.get(wanted.hash)
        if known is None:
            held = self.snapshots.part(wanted.hash)
            blobs = self.ledger.store.blobs
            try:
                num_bytes = blobs.size(wanted.hash) if held is None else len(held)
                starts = range(0, num_bytes, PART_BYTES)
                parts = (
                    blobs.read_range(wanted.hash, n, PART_BYTES) if held is None else held[n : n + PART_BYTES]
                    for n in starts
                )
                known = Parts(total_bytes=num_bytes, hashes=tuple(blake3(part).digest() for part in parts))
            except BlobMissing:
                return Refused(reason=MISSING, text=f"this node does not hold blob {wanted.hash.hex()[:8]}")
            self._part_lists[wanted.hash] = known
            while len(self._part_lists) > MAX_PART_LISTS:
                self._part_lists.pop(next(iter(self._part_lists)), None)
        return known

    def _changed(self, records: list[Record]) -> None:
        self.gossip.announce(record.author for record in records)
        for bucket in self.buckets:
            bucket.announce()
