"""A newcomer's start: a peer's replica as it stands, instead of replaying its history.

A snapshot is a pair that belongs together: the signed records, and the chunks of the sum they add up to. Another peer
first vouches that the same records gave it the same sum; then each piece is fetched by its hash and the records
are verified one by one. From then on the sum is compared with everybody's, as anyone's is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from blake3 import blake3

from spikemesh.codec import GetSnapshot, Snapshot, Vouch, Vouched, decode_record, pack_wires, unpack_wires
from spikemesh.crdt import CHUNK_COORDINATES, IntegerSum, RecordSet, Replica
from spikemesh.errors import Divergence, InvalidData, PeerUnreachable
from spikemesh.node.calls import ask
from spikemesh.node.ledger import Ledger
from spikemesh.transport import PeerAddress, Transport

log = logging.getLogger("spikemesh.node")

MAX_HELD = 2
MAX_RECORDS_BYTES = 1 << 30
MAX_VOUCHERS = 8
PIECES_AT_ONCE = 4

Fetch = Callable[[bytes, int], Awaitable[bytes]]
"""``await fetch(hash, num_bytes)`` is the blob of that hash and length."""
VOUCH_TIMEOUT_S = 3.0
"""All are asked at once. Some of them are behind NAT and will never answer; who waits for them does not train."""


@dataclass(frozen=True)
class _Offer:
    message: Snapshot
    parts: dict[bytes, bytes]


class SnapshotDesk:
    """Serves snapshots of the ledger. The parts of the last few stay in memory while newcomers fetch them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._offers: OrderedDict[bytes, _Offer] = OrderedDict()

    def offer(self) -> Snapshot:
        """A snapshot of the ledger as it is now; its parts stay here for a while."""
        replica = self._ledger.replica
        key = replica.records.digest
        if key not in self._offers:
            self._offers[key] = _make_offer(replica)
            while len(self._offers) > MAX_HELD:
                self._offers.popitem(last=False)
        return self._offers[key].message

    def part(self, digest: bytes) -> bytes | None:
        """A piece of an offered snapshot by its hash."""
        return next((o.parts[digest] for o in self._offers.values() if digest in o.parts), None)


def _make_offer(replica: Replica) -> _Offer:
    wires = pack_wires(record.wire for record in replica.records)
    chunks = {chunk.digest: chunk.to_bytes() for chunk in replica.sum.chunks}
    message = Snapshot(
        set_digest=replica.records.digest,
        sum_digest=replica.sum.digest,
        records_hash=blake3(wires).digest(),
        records_bytes=len(wires),
        chunk_hashes=tuple(chunk.digest for chunk in replica.sum.chunks),
    )
    return _Offer(message, {**chunks, message.records_hash: wires})


async def ask_for_offer(transport: Transport, peer: PeerAddress, ledger: Ledger) -> Snapshot:
    """What a peer has to offer now, in sizes that this run can have."""
    offer = await ask(transport, peer, GetSnapshot(run_id=ledger.run_id), Snapshot)
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
    packed = await fetch(offer.records_hash, offer.records_bytes)
    chunks = [await fetch(digest, size * 8) for digest, size in zip(offer.chunk_hashes, _sizes(ledger), strict=True)]
    records = RecordSet(ledger.replica.records.retractors).insert(
        decode_record(wire, run_id=ledger.run_id) for wire in unpack_wires(packed)
    )
    replica = Replica(records, IntegerSum.from_bytes(ledger.num_coordinates, chunks))
    if (replica.records.digest, replica.sum.digest) != (offer.set_digest, offer.sum_digest):
        raise InvalidData("a snapshot does not have the digests it was announced with")
    return replica


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
