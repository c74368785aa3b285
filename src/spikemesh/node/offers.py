"""Snapshots for newcomers: what this node offers, as long as somebody fetches it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from blake3 import blake3

from spikemesh.codec import Snapshot, pack_wires
from spikemesh.crdt import Chunk, Replica
from spikemesh.node.clock import Clock
from spikemesh.node.ledger import Ledger

MAX_HELD = 2
IN_USE_S = 30.0
"""Who fetches asks for the next piece within this time. An offer that is in use stays, and when all are, whoever comes
is given the newest of them: in a swarm that trains on, each newcomer would otherwise take away the last one's."""
LONGEST_OFFER_S = 1800.0
"""An offer that is older goes, in use or not: nobody can keep newcomers in the past."""


@dataclass
class _Offer:
    """What is needed to serve a snapshot. Its chunks are the replica's own, so it costs memory where they changed."""

    message: Snapshot
    records: bytes
    chunks: dict[bytes, Chunk]
    made_s: float
    used_s: float

    def is_in_use(self, now_s: float) -> bool:
        return now_s - self.used_s < IN_USE_S and now_s - self.made_s < LONGEST_OFFER_S


class SnapshotDesk:
    """Serves snapshots of the ledger: the last few that were offered, as long as newcomers fetch them."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger, self._clock = ledger, clock
        self._offers: OrderedDict[bytes, _Offer] = OrderedDict()

    def offer(self, wanted: bytes | None = None) -> Snapshot:
        """A snapshot of the ledger as it is now, unless that one is still here, or all places are in use."""
        now_s = self._clock.monotonic_s()
        offer = self._offers.get(wanted or b"") or self._newest(now_s)
        offer.used_s = now_s
        return offer.message

    def part(self, digest: bytes) -> bytes | None:
        """A piece of an offered snapshot by its hash."""
        for offer in self._offers.values():
            if digest == offer.message.records_hash or digest in offer.chunks:
                offer.used_s = self._clock.monotonic_s()
                return offer.chunks[digest].to_bytes() if digest in offer.chunks else offer.records
        return None

    def _newest(self, now_s: float) -> _Offer:
        replica = self._ledger.replica
        key = replica.records.digest
        if key in self._offers:
            return self._offers[key]
        if len(self._offers) == MAX_HELD:
            idle = next((held for held, offer in self._offers.items() if not offer.is_in_use(now_s)), None)
            if idle is None:
                return self._offers[next(reversed(self._offers))]
            del self._offers[idle]
        self._offers[key] = _make_offer(replica, now_s)
        return self._offers[key]


def _make_offer(replica: Replica, now_s: float) -> _Offer:
    wires = pack_wires(record.wire for record in replica.records)
    message = Snapshot(
        set_digest=replica.records.digest,
        sum_digest=replica.sum.digest,
        records_hash=blake3(wires).digest(),
        records_bytes=len(wires),
        chunk_hashes=tuple(chunk.digest for chunk in replica.sum.chunks),
    )
    chunks = {chunk.digest: chunk for chunk in replica.sum.chunks}
    return _Offer(message, wires, chunks, made_s=now_s, used_s=now_s)
