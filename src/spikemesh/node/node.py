"""A node: one replica, kept equal with others. It trains nothing; `Volunteer` does, on top of it.

It is handed everything that touches the world: ledger (disk), transport (network), clock and rng.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Awaitable, Callable

from spikemesh.codec import (
    MAX_PART_BYTES,
    BlobPart,
    GenesisReply,
    GetBlob,
    GetGenesis,
    GetSnapshot,
    Hello,
    Message,
    PeerInfo,
    Refused,
    Vouch,
    Vouched,
    Welcome,
    decode_message,
    encode_genesis,
    encode_message,
)
from spikemesh.crdt import Record, SyncMessage
from spikemesh.errors import BlobMissing, InvalidData, PeerUnreachable
from spikemesh.node.admission import Admission
from spikemesh.node.clock import Clock, Offload, in_thread
from spikemesh.node.gossip import Gossip, GossipConfig
from spikemesh.node.ledger import Ledger
from spikemesh.node.peers import PeerTable, address_of
from spikemesh.node.snapshot import MAX_VOUCHERS, SnapshotDesk, ask_for_offer, fetch_snapshot, vouchers
from spikemesh.transport import PeerAddress, Transport

log = logging.getLogger("spikemesh.node")

MAX_WELCOME_PEERS = 64
MAX_GREETED = 16
"""Contacts greeted at once on the way in; the others are met by gossip."""
GREET_S = 0.5
SNAPSHOT_TRIES = 5
SNAPSHOT_SOURCES = 3
"""Contacts that are asked for a snapshot, one after the other; what none of these delivers comes by gossip."""
CATCH_UP_S = 30.0
"""So long a newcomer waits for what happened before it trains; gossip brings the rest meanwhile."""
SNAPSHOT_WORTH_BYTES = 2048
"""Of records, about eight, from which on a snapshot is smaller than their deltas, one by one."""


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
            ledger=ledger, transport=transport, peers=self.peers, offload=offload, changed=self._changed
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
        self._snapshots = SnapshotDesk(ledger)

    async def run(self) -> None:
        """Gossip until cancelled. Raises what the disk raises; a peer's faults never end it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.gossip.push_forever())
            group.create_task(self.gossip.reconcile_forever())
            group.create_task(self.gossip.admit_forever())

    async def publish(self, record: Record, blobs: dict[bytes, bytes]) -> None:
        """Make an own record part of the run: durable here first, then told to others."""
        await self.admission.insert([record], blobs)

    async def enter(self, contacts: tuple[PeerAddress, ...]) -> int:
        """Greet `contacts`, catch up with whoever answers; returns how many did.

        A node without any history takes a snapshot first; if nobody delivers one, gossip brings the history.
        """
        for address in contacts:
            self.peers.learn(address)  # who does not answer now is tried again later
        answered = await self._greet(contacts[:MAX_GREETED])
        for address in answered[:SNAPSHOT_SOURCES] if not len(self.ledger.replica.records) else ():
            try:
                await self._adopt_snapshot(address)
                break
            except (PeerUnreachable, InvalidData) as error:
                log.info("no snapshot: %s", error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_S):
                for peer in filter(None, (self.peers.get(address.id) for address in answered)):
                    await self.gossip.exchange(peer)
        return len(answered)

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
        """Take over a peer's sum, vouched for by another peer where one passed through the same set of records."""
        others = tuple(address for address in self.peers.addresses() if address.id != peer.id)
        for attempt in range(SNAPSHOT_TRIES):
            offer = await ask_for_offer(self.transport, peer, self.ledger)
            if offer.records_bytes < SNAPSHOT_WORTH_BYTES:
                return
            asked = others
            self.num_vouchers, others = await vouchers(self.transport, asked, offer)
            if len(others) < len(asked[:MAX_VOUCHERS]):
                continue  # waiting for the silent took so long that the offer may be gone
            if self.num_vouchers or not others:
                break
            await self.clock.sleep(0.2 * 2**attempt)
        await self.admission.adopt(await fetch_snapshot(self.transport, peer, self.ledger, offer))
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
            case Hello():
                return self._welcome(peer_id, message)
            case GetGenesis() | GetSnapshot() if message.run_id != self.ledger.run_id:
                return Refused(reason="run", text=f"this node takes part in run {self.ledger.run_id.hex()[:8]}")
            case GetGenesis():
                return GenesisReply(data=encode_genesis(self.ledger.genesis))
            case GetSnapshot():
                return self._snapshots.offer()
            case Vouch():
                return Vouched(sum_digest=self.ledger.vouch(message.set_digest))
            case _:
                return Refused(reason="kind", text=f"a {type(message).__name__} is not a request")

    def _hello(self) -> Hello:
        return Hello(run_id=self.ledger.run_id, address=_info(self.transport.address))

    def _welcome(self, peer_id: bytes, hello: Hello) -> Message:
        if hello.run_id != self.ledger.run_id:
            return Refused(reason="run", text=f"this node takes part in run {self.ledger.run_id.hex()[:8]}")
        if hello.address.id != peer_id:
            return Refused(reason="identity", text="the hello names another key than the connection")
        known = [_info(address) for address in self.peers.addresses() if address.id != peer_id]
        self.peers.learn(address_of(hello.address))
        self.peers.succeeded(peer_id)
        return Welcome(peers=tuple(known[:MAX_WELCOME_PEERS]))

    def _blob_part(self, wanted: GetBlob) -> Message:
        length = min(wanted.length, MAX_PART_BYTES)
        held = self._snapshots.part(wanted.hash)
        if held is not None:
            return BlobPart(data=held[wanted.offset : wanted.offset + length], total_bytes=len(held))
        try:
            blobs = self.ledger.store.blobs
            return BlobPart(
                data=blobs.read_range(wanted.hash, wanted.offset, length), total_bytes=blobs.size(wanted.hash)
            )
        except BlobMissing:
            return Refused(reason="missing", text=f"this node does not hold blob {wanted.hash.hex()[:8]}")

    def _changed(self) -> None:
        self.gossip.announce()


def _info(address: PeerAddress) -> PeerInfo:
    return PeerInfo(id=address.id, addresses=address.addresses, relay_url=address.relay_url)
