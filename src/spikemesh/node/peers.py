"""The peers a node knows: where they are, whether they answered, and when to try a silent one again."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from spikemesh.codec import PeerInfo
from spikemesh.crdt import SyncState
from spikemesh.node.clock import Clock
from spikemesh.transport import PeerAddress

MAX_PEERS = 256
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 30.0


def address_of(info: PeerInfo) -> PeerAddress:
    """A peer's address as a message or a ticket carries it, for the transport."""
    return PeerAddress(id=info.id, addresses=info.addresses, relay_url=info.relay_url)


@dataclass
class Peer:
    """What this node remembers of another one. Owned by the `PeerTable`."""

    address: PeerAddress
    sync: SyncState = field(default_factory=SyncState)
    failures: int = 0
    retry_at_s: float = 0.0
    answered: bool = False
    met: bool = False
    """It has answered or greeted at some time. When it falls silent it is lost, and is looked for."""


class PeerTable:
    def __init__(self, own_id: bytes, clock: Clock, rng: random.Random) -> None:
        self._own_id, self._clock, self._rng = own_id, clock, rng
        self._peers: dict[bytes, Peer] = {}

    def learn(self, address: PeerAddress) -> None:
        """Remember a peer, or its new address. A full table keeps the peers that answer."""
        if address.id == self._own_id:
            return
        known = self._peers.get(address.id)
        if known is not None:
            if known.address != address:
                known.address, known.retry_at_s = address, 0.0
            return
        if len(self._peers) >= MAX_PEERS:
            silent = [peer_id for peer_id, peer in self._peers.items() if not peer.answered]
            if not silent:
                return
            del self._peers[self._rng.choice(silent)]
        self._peers[address.id] = Peer(address)

    def get(self, peer_id: bytes) -> Peer | None:
        return self._peers.get(peer_id)

    def addresses(self) -> tuple[PeerAddress, ...]:
        """Every known peer, those that answer first."""
        ranked = sorted(self._peers.values(), key=lambda peer: (not peer.answered, peer.failures, peer.address.id))
        return tuple(peer.address for peer in ranked)

    def num_alive(self) -> int:
        return sum(peer.answered for peer in self._peers.values())

    def choose(self, count: int) -> list[Peer]:
        """Up to `count` random peers worth asking now: not waiting for their next try."""
        now_s = self._clock.monotonic_s()
        ready = [peer for _, peer in sorted(self._peers.items()) if peer.retry_at_s <= now_s]
        return self._rng.sample(ready, min(count, len(ready)))

    def choose_lost(self) -> Peer | None:
        """A random peer to look for, whatever its next try: one that was met and does not answer now. Mostly None.

        With probability 2 * lost / (lost + answering): where a third is lost, this node's own network was cut, and its
        end must be found at once. A peer that everybody lost for good is dialled twice a period by all together.
        """
        lost = [peer for _, peer in sorted(self._peers.items()) if peer.met and not peer.answered]
        if not lost or self._rng.random() * (len(lost) + self.num_alive()) >= 2 * len(lost):
            return None
        return self._rng.choice(lost)

    def succeeded(self, peer_id: bytes) -> None:
        """It answered, or greeted: one behind NAT cannot be dialled, and is reached on its own connection."""
        if (peer := self._peers.get(peer_id)) is not None:
            peer.failures, peer.retry_at_s, peer.answered, peer.met = 0, 0.0, True, True

    def failed(self, peer_id: bytes) -> None:
        """Wait twice as long as the last time, with jitter, and forget what was said: it may have restarted."""
        if (peer := self._peers.get(peer_id)) is not None:
            wait_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(peer.failures, 10)) * self._rng.uniform(0.5, 1.0)
            peer.failures, peer.answered, peer.sync = peer.failures + 1, False, SyncState()
            peer.retry_at_s = self._clock.monotonic_s() + wait_s
