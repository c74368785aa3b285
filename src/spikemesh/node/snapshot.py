"""A newcomer's start: a peer's replica as it stands, instead of replaying its history.

A snapshot is a pair that belongs together: the signed records, and the chunks of the sum they add up to. Another peer
first vouches that the same records gave it the same sum; then each piece is fetched by its hash, from everybody who
offers it now, and the records are verified one by one. From then on the sum is compared with everybody's, as anyone's
is.

A piece is kept on the disk when it comes. Who is interrupted asks for the same snapshot again, and fetches the rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from spikemesh.codec import GetSnapshot, Snapshot, Vouch, Vouched, decode_record, unpack_wires
from spikemesh.crdt import CHUNK_COORDINATES, IntegerSum, RecordSet, Replica
from spikemesh.errors import Divergence, InvalidData, PeerUnreachable
from spikemesh.node.calls import REQUEST_TIMEOUT_S, ask
from spikemesh.node.clock import Offload
from spikemesh.node.holdings import Holdings
from spikemesh.node.ledger import Ledger
from spikemesh.node.transfer import PartsOnDisk, fetch_blob
from spikemesh.transport import PeerAddress, Transport

log = logging.getLogger("spikemesh.node")

MAX_RECORDS_BYTES = 1 << 30
MAX_VOUCHERS = 8
PIECES_AT_ONCE = 8
MAX_SOURCES = 4
BEGUN = "snapshot"
"""The value in the store that names the snapshot whose pieces are there."""

Fetch = Callable[[bytes, int], Awaitable[bytes]]
"""``await fetch(hash, num_bytes)`` is the blob of that hash and length."""
VOUCH_TIMEOUT_S = 3.0
"""All are asked at once. Some of them are behind NAT and will never answer; who waits for them does not train."""


async def ask_for_offer(
    transport: Transport,
    peer: PeerAddress,
    ledger: Ledger,
    wanted: bytes | None = None,
    timeout_s: float = REQUEST_TIMEOUT_S,
) -> Snapshot:
    """What a peer has to offer, in sizes that this run can have: of the set `wanted` if it still holds that."""
    offer = await ask(transport, peer, GetSnapshot(run_id=ledger.run_id, wanted=wanted), Snapshot, timeout_s)
    check_offer(offer, ledger, f"peer {peer}")
    return offer


def check_offer(offer: Snapshot, ledger: Ledger, source: str) -> None:
    """`InvalidData` unless the offer has the sizes that this run's snapshots have."""
    if len(offer.chunk_hashes) != len(_sizes(ledger)) or offer.records_bytes > MAX_RECORDS_BYTES:
        raise InvalidData(
            f"{source} offers a snapshot of {len(offer.chunk_hashes)} chunks and {offer.records_bytes} bytes of "
            f"records; this run has {len(_sizes(ledger))} chunks, and {MAX_RECORDS_BYTES} bytes are the most we take"
        )


async def fetch_snapshot(fetch: Fetch, ledger: Ledger, offer: Snapshot) -> Replica:
    """The replica that was offered, complete and consistent; whether its sum is right is for those who vouch to say."""
    sizes = (offer.records_bytes, *(8 * size for size in _sizes(ledger)))
    packed, *chunks = await _fetch_all(fetch, list(zip((offer.records_hash, *offer.chunk_hashes), sizes, strict=True)))
    records = RecordSet(ledger.replica.records.retractors).insert(
        decode_record(wire, run_id=ledger.run_id) for wire in unpack_wires(packed)
    )
    replica = Replica(records, IntegerSum.from_bytes(ledger.num_coordinates, chunks))
    if (replica.records.digest, replica.sum.digest) != (offer.set_digest, offer.sum_digest):
        raise InvalidData("a snapshot does not have the digests it was announced with")
    return replica


async def _fetch_all(fetch: Fetch, wanted: list[tuple[bytes, int]]) -> list[bytes]:
    """Each piece, a few at a time. The first that fails ends it."""
    places = asyncio.Semaphore(PIECES_AT_ONCE)

    async def one(digest: bytes, num_bytes: int) -> bytes:
        async with places:
            return await fetch(digest, num_bytes)

    tasks = [asyncio.create_task(one(*piece)) for piece in wanted]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def begun(store: Holdings) -> bytes | None:
    """The set of records of the snapshot that was being fetched when this node stopped."""
    return store.get_value(BEGUN) or None


class Pieces:
    """The pieces of one offer: on the disk when they come, and from there if they came before a crash.

    `sources` all offer this snapshot. They are asked in turn, and for each other where one fails or is late.
    """

    def __init__(
        self, ledger: Ledger, transport: Transport, offload: Offload, offer: Snapshot, sources: Sequence[PeerAddress]
    ) -> None:
        self._store, self._transport, self._offload = ledger.store, transport, offload
        num_bytes = offer.records_bytes + sum(8 * size for size in _sizes(ledger))
        self._held = PartsOnDisk(ledger.store.pieces, offload, num_bytes)
        self._offer, self._sources = offer, sources
        self._num_fetched = 0

    async def begin(self) -> None:
        """Let go of what an other offer left."""
        await self._held.keep_only({self._offer.records_hash, *self._offer.chunk_hashes})
        await self._offload(self._store.set_value, BEGUN, self._offer.set_digest)

    async def fetch(self, digest: bytes, num_bytes: int) -> bytes:
        data = await self._held.get(digest)
        if data is None:
            first = self._num_fetched % len(self._sources)
            self._num_fetched += 1
            sources = [*self._sources[first:], *self._sources[:first]]
            data = await fetch_blob(self._transport, sources, digest, num_bytes)
            await self._held.add(digest, data)
        return data

    async def end(self) -> None:
        """The snapshot is part of the replica now."""
        await self._offload(self._store.set_value, BEGUN, b"")
        await self._held.keep_only()


async def offering(
    transport: Transport, peers: Sequence[PeerAddress], ledger: Ledger, offer: Snapshot
) -> tuple[PeerAddress, ...]:
    """Those of `peers` that offer the same snapshot."""

    async def has(peer: PeerAddress) -> bool:
        try:
            return await ask_for_offer(transport, peer, ledger, offer.set_digest, VOUCH_TIMEOUT_S) == offer
        except (PeerUnreachable, InvalidData):
            return False

    answers = await asyncio.gather(*map(has, peers))
    return tuple(peer for peer, offers in zip(peers, answers, strict=True) if offers)


async def vouchers(
    transport: Transport, peers: tuple[PeerAddress, ...], offer: Snapshot
) -> tuple[int, tuple[PeerAddress, ...]]:
    """How many of `peers` had the same sum for the same records, and who answered at all.

    `Divergence` if one had another sum.
    """

    async def ask_one(peer: PeerAddress) -> Vouched | None:
        try:
            return await ask(transport, peer, Vouch(set_digest=offer.set_digest), Vouched, VOUCH_TIMEOUT_S)
        except (PeerUnreachable, InvalidData) as error:
            log.info("peer %s does not vouch: %s", peer, error)
            return None

    asked = peers[:MAX_VOUCHERS]
    replies = await asyncio.gather(*map(ask_one, asked))
    answered = {peer: reply.sum_digest for peer, reply in zip(asked, replies, strict=True) if reply is not None}
    for peer, sum_digest in answered.items():
        if sum_digest not in (None, offer.sum_digest):
            raise Divergence(
                f"peer {peer} holds another sum for the same records than the one that offers them. One of the two is "
                "wrong, so neither is taken; join through another peer."
            )
    return list(answered.values()).count(offer.sum_digest), tuple(answered)


def _sizes(ledger: Ledger) -> list[int]:
    """Coordinates in each chunk of the run's sum."""
    starts = range(0, ledger.num_coordinates, CHUNK_COORDINATES)
    return [min(CHUNK_COORDINATES, ledger.num_coordinates - start) for start in starts]
