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
LAST_RETRY_S = 8.0


def address_of(info: PeerInfo) -> PeerAddress:
    """A peer's address as a message or a ticket carries it, for the transport."""
    return PeerAddress(id=info.id, addresses=info.addresses, relay_url=info.relay_url)


def info_of(address: PeerAddress) -> PeerInfo:
    """The same the other way round."""
    return PeerInfo(id=address.id, addresses=address.addresses, relay_url=address.relay_url)


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
    """Peers that answer and peers that do not, apart, since a node picks from the first ones all the time."""

    def __init__(self, own_id: bytes, clock: Clock, rng: random.Random) -> None:
        self._own_id, self._clock, self._rng = own_id, clock, rng
        self._answering: dict[bytes, Peer] = {}
        self._silent: dict[bytes, Peer] = {}

    def learn(self, address: PeerAddress) -> None:
        """Remember a peer, or its new address. A full table keeps the peers that answer."""
        if address.id == self._own_id:
            return
        known = self.get(address.id)
        if known is not None:
            if known.address != address:
                known.address, known.retry_at_s = address, 0.0
            return
        if len(self._answering) + len(self._silent) >= MAX_PEERS:
            if not self._silent:
                return
            del self._silent[self._rng.choice([*self._silent])]
        self._silent[address.id] = Peer(address)

    def get(self, peer_id: bytes) -> Peer | None:
        return self._answering.get(peer_id) or self._silent.get(peer_id)

    def addresses(self) -> tuple[PeerAddress, ...]:
        """Every known peer, those that answer first."""
        ranked = sorted(self._silent.values(), key=lambda peer: (peer.failures, peer.address.id))
        return tuple(self._answering[peer_id].address for peer_id in sorted(self._answering)) + tuple(
            peer.address for peer in ranked
        )

    def sample(self, count: int, *, without: bytes) -> list[PeerAddress]:
        """Up to `count` peers to tell somebody of: random ones that answer, then random others."""
        picked: list[PeerAddress] = []
        for peers in (self._answering, self._silent):
            ids = [peer_id for peer_id in self._pick(peers, count + 1 - len(picked)) if peer_id != without]
            picked += [peers[peer_id].address for peer_id in ids]
        return picked[:count]

    def num_alive(self) -> int:
        return len(self._answering)

    def choose(self, count: int, *, strangers: bool = False) -> list[Peer]:
        """Up to `count` random peers worth asking now: those that answer, or those that do not, before the others."""
        chosen: list[Peer] = []
        for answering in (not strangers, strangers):
            left = count - len(chosen)
            if left and answering:
                chosen += [self._answering[peer_id] for peer_id in self._pick(self._answering, left)]
            elif left:
                now_s = self._clock.monotonic_s()
                ready = [peer for peer in self._silent.values() if peer.retry_at_s <= now_s]
                chosen += self._rng.sample(ready, min(left, len(ready)))
        return chosen

    def choose_lost(self) -> Peer | None:
        """A random peer to look for, whatever its next try: one that was met and does not answer now. Mostly None.

        With probability 2 * lost / (lost + answering): where a third is lost, this node's own network was cut, and its
        end must be found at once. A peer that everybody lost for good is dialled twice a period by all together.
        """
        lost = [peer for peer in self._silent.values() if peer.met]
        if not lost or self._rng.random() * (len(lost) + self.num_alive()) >= 2 * len(lost):
            return None
        return self._rng.choice(lost)

    def succeeded(self, peer_id: bytes) -> None:
        """It answered, or greeted: one behind NAT cannot be dialled, and is reached on its own connection."""
        if (peer := self.get(peer_id)) is not None:
            peer.failures, peer.retry_at_s, peer.answered, peer.met = 0, 0.0, True, True
            self._silent.pop(peer_id, None)
            self._answering[peer_id] = peer

    def failed(self, peer_id: bytes) -> None:
        """Wait twice as long as the last time, with jitter, and forget what was said: it may have restarted."""
        if (peer := self.get(peer_id)) is not None:
            wait_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(peer.failures, 10)) * self._rng.uniform(0.5, 1.0)
            peer.failures, peer.answered, peer.sync = peer.failures + 1, False, SyncState()
            peer.retry_at_s = self._clock.monotonic_s() + wait_s
            self._answering.pop(peer_id, None)
            self._silent[peer_id] = peer

    def _pick(self, peers: dict[bytes, Peer], count: int) -> list[bytes]:
        return self._rng.sample([*peers], min(count, len(peers)))
