"""Gossip: new records are pushed to a few peers at once; now and then everything is compared with a random one.

Both are the same exchange of `next_message` and `receive`, because for a CRDT spreading news and repairing a loss are
the same thing. Demers et al., "Epidemic algorithms for replicated database maintenance" (1987).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from spikemesh.codec import Hello, Message, Refused, Welcome
from spikemesh.crdt import SyncMessage, SyncState, next_message, receive
from spikemesh.errors import Divergence, InvalidData, PeerRefused, PeerUnreachable
from spikemesh.node.admission import Admission
from spikemesh.node.calls import ask
from spikemesh.node.clock import Clock
from spikemesh.node.ledger import Ledger
from spikemesh.node.peers import Peer, PeerTable, address_of
from spikemesh.transport import PeerAddress, Transport

log = logging.getLogger("spikemesh.node")

MAX_TURNS = 64
"""Messages one side sends in one exchange at most; 64 of half a megabyte of records, the rest in the next one."""

MAX_INBOX = 32
"""Messages with records that wait to be taken in; a peer that finds the inbox full comes again."""


@dataclass(frozen=True, kw_only=True)
class GossipConfig:
    """`period_s` between two comparisons with a random peer; news go to `fanout` peers at once."""

    period_s: float = 2.0
    fanout: int = 6


class Gossip:
    def __init__(
        self,
        *,
        config: GossipConfig,
        hello: Callable[[], Hello],
        ledger: Ledger,
        admission: Admission,
        peers: PeerTable,
        transport: Transport,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._config, self._hello, self._ledger, self._admission = config, hello, ledger, admission
        self._peers, self._transport, self._clock, self._rng = peers, transport, clock, rng
        self._news = asyncio.Event()
        self._busy: set[bytes] = set()
        self._inbox: asyncio.Queue[tuple[Peer, tuple[bytes, ...]]] = asyncio.Queue(MAX_INBOX)
        self.diverged: set[bytes] = set()

    def announce(self) -> None:
        """There is news: the push loop carries it out."""
        self._news.set()

    async def push_forever(self) -> None:
        """A peer that does not answer holds up nobody: there is one exchange per peer at most, each its own task."""
        async with asyncio.TaskGroup() as exchanges:
            while True:
                await self._news.wait()
                self._news.clear()
                for peer in self._peers.choose(self._config.fanout):
                    exchanges.create_task(self.exchange(peer))

    async def reconcile_forever(self) -> None:
        async with asyncio.TaskGroup() as exchanges:
            while True:
                await self._clock.sleep(self._config.period_s * self._rng.uniform(0.75, 1.25))
                lost = self._peers.choose_lost()
                for peer in [*self._peers.choose(1), *([lost] if lost else [])]:
                    exchanges.create_task(self.exchange(peer, afresh=True))

    async def admit_forever(self) -> None:
        """Take in what peers brought of their own accord, in the order they came."""
        while True:
            peer, wires = await self._inbox.get()
            await self._admission.admit(wires, peer.address)

    async def greet(self, address: PeerAddress) -> bool:
        """Say who and where we are, learn who else takes part. False when there is no answer."""
        try:
            welcome = await ask(self._transport, address, self._hello(), Welcome)
        except (PeerUnreachable, InvalidData) as error:
            log.info("no welcome: %s", error)
            self._peers.failed(address.id)
            return False
        self._peers.succeeded(address.id)
        for other in welcome.peers:
            self._peers.learn(address_of(other))
        return True

    async def exchange(self, peer: Peer, *, afresh: bool = False) -> bool:
        """Talk to one peer until neither side has anything to say. False when it does not answer.

        `afresh` compares everything, whatever was said before. A peer that was never met, or that failed since, may
        not know this node: it is greeted first.
        """
        if peer.address.id in self._busy:
            return True
        self._busy.add(peer.address.id)
        try:
            if (afresh or not peer.answered) and not await self.greet(peer.address):
                return False
            if afresh:
                peer.sync = SyncState()
            for _ in range(MAX_TURNS):
                peer.sync, message = next_message(self._ledger.replica, peer.sync)
                if message is None:
                    break
                reply = await ask(self._transport, peer.address, message, SyncMessage)
                await self._take(peer, reply)
        except (PeerUnreachable, InvalidData, Divergence) as error:
            log.info("exchange broken off: %s", error)
            if isinstance(error, PeerRefused) and error.reason == "busy":
                peer.sync = SyncState()  # it lives, and what it did not take must be said again
            else:
                self._peers.failed(peer.address.id)
            return False
        finally:
            self._busy.discard(peer.address.id)
        self._peers.succeeded(peer.address.id)
        return True

    def answer_sync(self, peer_id: bytes, message: SyncMessage) -> Message:
        """The reply to a peer's message. What it brought is taken in afterwards, within bounds."""
        peer = self._peers.get(peer_id)
        if peer is None:
            return Refused(reason="stranger", text="say hello first")
        if message.records and self._inbox.full():
            return Refused(reason="busy", text="too many records are waiting to be taken in; try again")
        try:
            self._check(peer, message)
        except Divergence as error:
            return Refused(reason="diverged", text=str(error))
        peer.sync = receive(peer.sync, message)
        if message.records:
            self._inbox.put_nowait((peer, message.records))
        peer.sync, reply = next_message(self._ledger.replica, peer.sync)
        if reply is None:
            replica = self._ledger.replica
            return SyncMessage(set_digest=replica.records.digest, sum_digest=replica.sum.digest)
        return reply

    async def _take(self, peer: Peer, reply: SyncMessage) -> None:
        self._check(peer, reply)
        peer.sync = receive(peer.sync, reply)
        if reply.records:
            await self._admission.admit(reply.records, peer.address)

    def _check(self, peer: Peer, message: SyncMessage) -> None:
        """Same records and another sum: a bug, bad memory or a lie, here or there, that must not pass in silence."""
        mine = self._ledger.vouch(message.set_digest)
        if mine in (None, message.sum_digest):
            self.diverged.discard(peer.address.id)
            return
        if peer.address.id not in self.diverged:
            self.diverged.add(peer.address.id)
            log.error("peer %s holds another sum than this node for the same records", peer.address)
        raise Divergence(
            f"the sums of {peer.address.id.hex()[:8]} and this node differ for the same records. Compare both with a "
            "third node; the one that is wrong should move its folder away and join again."
        )
