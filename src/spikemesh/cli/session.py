"""One running node, from its folder: opens everything that a node is handed, and closes it in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from spikemesh.cli.folder import RunFolder
from spikemesh.codec import Hello, encode_ticket, portable, read_tensors, run_id
from spikemesh.crdt import Genesis
from spikemesh.errors import InvalidData, PeerUnreachable, StoreCorrupt, TransportError
from spikemesh.files import write_file_atomic
from spikemesh.node import (
    WINDOW_BYTES,
    BucketCalls,
    BucketConfig,
    BucketGossip,
    Door,
    Identity,
    Ledger,
    Node,
    NodeStatistics,
    PartsOnDisk,
    SystemClock,
    Volunteer,
    begun,
    fetch_blob,
    fetch_genesis,
    greet,
    in_thread,
    info_of,
)
from spikemesh.store import Store
from spikemesh.transport import Metered, PeerAddress, Transport
from spikemesh.transport.bucket import Bucket
from spikemesh.transport.p2p import P2PTransport

log = logging.getLogger("spikemesh.cli")

Tensors = Mapping[str, npt.NDArray[Any]]

Contact = tuple[bytes, PeerAddress]
"""(run id, where to find one of its nodes)."""

Got = TypeVar("Got")

STATUS_PERIOD_S = 0.5

BUCKET_THREADS = 4
"""Of a bucket's own, so that one that hangs takes no thread from the node's disk."""

SHARED_FOLDER = BucketConfig(period_s=1.0, longest_period_s=5.0)
REMOTE = BucketConfig(period_s=5.0, longest_period_s=60.0)
"""Looks into a remote bucket cost money: one listing per author and a few more."""


class _Totals(msgspec.Struct, frozen=True):
    """What the node's earlier starts counted."""

    num_starts: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    num_deltas_fetched: int = 0
    started_from_snapshot: bool = False
    num_vouchers: int = 0

    @classmethod
    def of(cls, last: NodeStatistics | None) -> _Totals:
        if last is None:
            return cls()
        return cls(
            last.num_starts,
            last.sent_bytes,
            last.received_bytes,
            last.num_deltas_fetched,
            last.started_from_snapshot,
            last.num_vouchers,
        )


@dataclass(frozen=True, kw_only=True)
class Session:
    """An open node. `start` holds the tensors the run began with."""

    folder: RunFolder
    identity: Identity
    node: Node
    start: Tensors
    before: _Totals

    @property
    def ticket(self) -> str:
        return make_ticket(self.folder, self.node.transport.address)

    def statistics(self, volunteer: Volunteer | None) -> NodeStatistics:
        node, before = self.node, self.before
        replica, wire = node.ledger.replica, node.transport.statistics()
        return NodeStatistics(
            id=node.id.hex(),
            run_id=node.ledger.run_id.hex(),
            digest=replica.sum.digest.hex(),
            set_digest=replica.records.digest.hex(),
            num_coordinates=node.ledger.num_coordinates,
            num_records=len(replica.records),
            num_contributions=len(replica.records.visible),
            num_own=replica.records.context.last(node.id),
            num_authors=len(replica.records.logs),
            num_peers=node.peers.num_alive(),
            num_diverged=len(node.gossip.diverged),
            num_refused=node.admission.num_refused,
            num_deltas_fetched=before.num_deltas_fetched + node.admission.num_deltas_fetched,
            sent_bytes=before.sent_bytes + wire.wire_sent_bytes,
            received_bytes=before.received_bytes + wire.wire_received_bytes,
            stored_bytes=node.ledger.store.blobs.total_bytes,
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            num_starts=before.num_starts + 1,
            started_from_snapshot=before.started_from_snapshot or node.started_from_snapshot,
            num_vouchers=max(before.num_vouchers, node.num_vouchers),
            buckets=tuple(bucket.statistics() for bucket in node.buckets),
            volunteer=volunteer.statistics() if volunteer is not None else None,
        )

    async def tell_forever(self, volunteer: Volunteer | None) -> None:
        """Keep `status.json` and `peers.json` up to date, and leave the last word in them."""
        try:
            while True:
                self.tell(volunteer)
                await asyncio.sleep(STATUS_PERIOD_S)
        finally:
            self.tell(volunteer)

    def tell(self, volunteer: Volunteer | None) -> None:
        self.folder.set_statistics(self.statistics(volunteer))
        if (known := self.node.peers.addresses()) and known != self.folder.peers():
            self.folder.set_peers(known)


def make_ticket(folder: RunFolder, peer: PeerAddress) -> str:
    """A ticket of this run, with those of its buckets that mean the same on another machine."""
    return encode_ticket(folder.run_id(), peer, tuple(filter(portable, folder.buckets())))


def open_bucket(url: str, wanted_run_id: bytes) -> BucketCalls:
    """The folder of one run in a bucket, with threads of its own."""
    threads = ThreadPoolExecutor(BUCKET_THREADS, thread_name_prefix="bucket")
    offload = partial(asyncio.get_running_loop().run_in_executor, threads)
    return BucketCalls(Bucket(f"{url.rstrip('/')}/{wanted_run_id.hex()}"), offload)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def open_session(
    folder: RunFolder,
    *,
    contact: Contact | None,
    bind: str,
    keep_bytes: int | None = None,
    tell: Callable[[str], None] = log.info,
) -> AsyncIterator[Session]:
    """Open the node of `folder`; with a contact (run id, address), first get from it what is not here yet.

    `keep_bytes` of deltas are kept for others; None is what was said the last time, or the default. `tell` is called
    with what takes long. On the way out the sum is saved, so that nothing has to be folded again.
    """
    before = _Totals.of(folder.statistics())
    with Store.open(folder.path) as store:
        identity = Identity.load_or_create(folder.path)
        transport = Metered(P2PTransport(secret_key=identity.secret, bind=folder.bind(bind), relay_url=folder.relay()))
        door = Door()
        await transport.start(door)
        folder.set_port(transport.address)
        try:
            wanted = folder.run_id() if contact is None else contact[0]
            buckets = [open_bucket(url, wanted) for url in folder.buckets()]
            genesis = await _genesis(folder, transport, buckets, contact)
            start = await _start_tensors(store, transport, buckets, genesis, contact, tell)
            window_bytes = _window_bytes(store, keep_bytes)
            ledger = await asyncio.to_thread(
                Ledger.open, store, genesis, run_id(genesis), start["theta0"], window_bytes
            )
            node = Node(ledger=ledger, transport=transport, clock=SystemClock(), rng=random.Random(identity.id))
            for url, calls in zip(folder.buckets(), buckets, strict=True):
                node.add_bucket(
                    BucketGossip(
                        calls=calls,
                        node=node,
                        private_key=identity.private_key,
                        rng=random.Random(identity.id),
                        config=REMOTE if portable(url) else SHARED_FOLDER,
                    )
                )
            door.open_to(node.serve)
            session = Session(folder=folder, identity=identity, node=node, start=start, before=before)
            write_file_atomic(folder.ticket_path, session.ticket.encode() + b"\n")
            try:
                yield session
            finally:
                await asyncio.to_thread(ledger.save)
        finally:
            await transport.close()
            with contextlib.suppress(OSError):  # a full or read-only disk is what ends it, and said already
                folder.ticket_path.unlink(missing_ok=True)


def _window_bytes(store: Store, said: int | None) -> int:
    """What the volunteer says, else said the last time: the same command goes on."""
    if said is not None:
        store.set_value("window_bytes", str(said).encode())
        return said
    before = store.get_value("window_bytes")
    return WINDOW_BYTES if before is None else int(before)


async def _genesis(
    folder: RunFolder, transport: Transport, buckets: list[BucketCalls], contact: Contact | None
) -> Genesis:
    if folder.has_genesis or contact is None:
        return folder.genesis()
    genesis = await _first_of(
        *(partial(bucket.genesis, contact[0]) for bucket in buckets),
        partial(fetch_genesis, transport, contact[1], contact[0]),
    )
    folder.set_genesis(genesis)
    return genesis


async def _start_tensors(
    store: Store,
    transport: Transport,
    buckets: list[BucketCalls],
    genesis: Genesis,
    contact: Contact | None,
    tell: Callable[[str], None],
) -> Tensors:
    parts = PartsOnDisk(store.pieces, in_thread, 2 * genesis.init_bytes)
    if not store.blobs.has(genesis.init_hash):
        wanted = genesis.init_hash, genesis.init_bytes
        sources = [partial(bucket.blob, *wanted) for bucket in buckets]
        if contact is not None:
            sources.append(partial(_start_from_peers, transport, contact, *wanted, parts))
        if not sources:
            raise StoreCorrupt(
                f"{store.folder} lacks the weights that the run started with. Join again with a ticket: they come back."
            )
        tell(f"fetching the weights that the run started with: {genesis.init_bytes / 1e6:.1f} MB")
        await in_thread(store.blobs.put_verified, genesis.init_hash, await _first_of(*sources))
    if not begun(store):
        await parts.keep_only()
    start = await in_thread(store.blobs.get, genesis.init_hash)
    return read_tensors(start, expected=start_layout(genesis))


async def _start_from_peers(
    transport: Transport, contact: Contact, digest: bytes, num_bytes: int, parts: PartsOnDisk
) -> bytes:
    """From the contact and whom it knows, in parts; whoever is interrupted goes on with those that came."""
    wanted_run_id, peer = contact
    others: tuple[PeerAddress, ...] = ()
    with contextlib.suppress(PeerUnreachable, InvalidData):
        others = await greet(transport, peer, Hello(run_id=wanted_run_id, address=info_of(transport.address)))
    return await fetch_blob(transport, [peer, *others], digest, num_bytes, parts)


async def _first_of(*sources: Callable[[], Awaitable[Got]]) -> Got:
    """What the first source gives that gives anything; the last one's error if none does."""
    for source in sources[:-1]:
        with contextlib.suppress(TransportError, InvalidData):
            return await source()
    return await sources[-1]()


def start_layout(genesis: Genesis) -> dict[str, tuple[npt.DTypeLike, tuple[int, ...]]]:
    """What a run's start must hold: theta0, float32 [A], and each mask as packed bits."""
    masks = {f"mask.{spec.name}": -(-math.prod(spec.shape) // 8) for spec in genesis.tensors if spec.masked}
    return {
        "theta0": (np.float32, (genesis.num_coordinates,)),
        **{name: (np.uint8, (num_bytes,)) for name, num_bytes in masks.items()},
    }


async def enter_run(session: Session, contact: Contact | None) -> int:
    """Greet the contact and whoever was known before; `PeerUnreachable` if a newcomer finds nobody."""
    contacts = {peer.id: peer for peer in session.folder.peers()}
    if contact is not None:
        contacts[contact[1].id] = contact[1]
    session.folder.set_peers(tuple(contacts.values()))  # before anything can go wrong
    answered = await session.node.enter(tuple(contacts.values()))
    if contact is not None and not answered and not len(session.node.ledger.replica.records):
        raise PeerUnreachable(
            f"nobody of {len(contacts)} known peers answers, and no bucket. Ask for a fresh ticket of a running node, "
            "or name a bucket with --bucket."
        )
    return answered
