"""Gossip: new records are pushed to a few peers at once; now and then everything is compared with a random one.

Both are the same exchange of `next_message` and `receive`, because for a CRDT spreading news and repairing a loss are
the same thing. Demers et al., "Epidemic algorithms for replicated database maintenance" (1987).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from spikemesh.codec import Hello, Message, Refused
from spikemesh.crdt import SyncMessage, SyncState, next_message, receive
from spikemesh.errors import Divergence, InvalidData, PeerRefused, PeerUnreachable
from spikemesh.node.admission import Admission
from spikemesh.node.calls import REQUEST_TIMEOUT_S, ask, greet
from spikemesh.node.clock import Clock
from spikemesh.node.ledger import Ledger
from spikemesh.node.peers import Peer, PeerTable
from spikemesh.transport import PeerAddress, Transport

log = logging.getLogger("spikemesh.node")

MAX_TURNS = 64
"""Messages one side sends in one exchange at most; 64 of half a megabyte of records, the rest in the next one."""

GREET_SHARE = 0.5
"""Of the comparisons, so many begin with a greeting: it tells where this node is now, and where others are."""

STRANGER_SHARE = 0.25
"""In so many periods a peer that never answered is greeted too, if there is one: that is how peers are found."""

LOOK_FOR_S = 2.0
"""For a greeting of a peer that was lost. A connection that is tried while the network is cut and soon after it tells
nobody of its end: QUIC repeats its first packet after 1, 3 and 7 s. So rather try anew, once a period."""

MAX_NEWS = 64
"""Authors told of at once. Who learns of more in one go has caught up, and the others know them."""

MAX_INBOX = 32
"""Messages with records that wait to be taken in; a peer that finds the inbox full comes again."""

MAX_ADMISSIONS = 8
"""Of these are taken in at once."""


@dataclass(frozen=True, kw_only=True)
class GossipConfig:
    """`period_s` between two comparisons with a random peer; news go to `fanout` peers at once."""

    period_s: float = 2.0
    fanout: int = 3


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
        self._fresh: dict[bytes, None] = {}
        self._busy: dict[bytes, dict[bytes, None]] = {}  # who is talked to, and news for afterwards
        self._inbox: asyncio.Queue[tuple[Peer, tuple[bytes, ...]]] = asyncio.Queue(MAX_INBOX)
        self.diverged: set[bytes] = set()

    def announce(self, authors: Iterable[bytes]) -> None:
        """There are new records of these authors: the push loop tells others."""
        self._fresh.update(dict.fromkeys(authors))
        self._news.set()

    async def push_forever(self) -> None:
        """A peer that does not answer holds up nobody: there is one exchange per peer at most, each its own task."""
        async with asyncio.TaskGroup() as exchanges:
            while True:
                await self._news.wait()
                self._news.clear()
                news, self._fresh = tuple(islice(self._fresh, MAX_NEWS)), {}
                for peer in self._peers.choose(self._config.fanout):
                    exchanges.create_task(self.exchange(peer, news))

    async def reconcile_forever(self) -> None:
        async with asyncio.TaskGroup() as exchanges:
            while True:
                await self._clock.sleep(self._config.period_s * self._rng.uniform(0.75, 1.25))
                await self._admission.opened()
                for peer, greet_s in self._choose():
                    exchanges.create_task(self._reconcile(peer, greet_s))

    def _choose(self) -> list[tuple[Peer, float | None]]:
        """Whom to compare everything with now, each once, and how long to wait for its welcome if it is greeted."""
        chosen: dict[bytes, tuple[Peer, float | None]] = {}
        for peer in self._peers.choose(1):
            chosen[peer.address.id] = peer, REQUEST_TIMEOUT_S if self._happens(GREET_SHARE) else None
        if self._happens(STRANGER_SHARE):
            for peer in self._peers.choose(1, strangers=True):
                chosen[peer.address.id] = peer, REQUEST_TIMEOUT_S
        if (lost := self._peers.choose_lost()) is not None:
            chosen[lost.address.id] = lost, LOOK_FOR_S
        return [*chosen.values()]

    def _happens(self, share: float) -> bool:
        return self._rng.random() < share

    async def _reconcile(self, peer: Peer, greet_s: float | None) -> None:
        """Compare everything, whatever was said before; with `greet_s`, greet first and wait so long."""
        if peer.address.id not in self._busy and (greet_s is None or await self.greet(peer.address, greet_s)):
            peer.sync = SyncState()
            await self.exchange(peer)

    async def admit_forever(self) -> None:
        """Take in what peers brought of their own accord. One whose deltas are slow to come holds up no other."""
        places = asyncio.Semaphore(MAX_ADMISSIONS)

        async def admit(peer: Peer, wires: tuple[bytes, ...]) -> None:
            try:
                await self._admission.admit(wires, peer.address)
            finally:
                places.release()

        async with asyncio.TaskGroup() as admissions:
            while True:
                await places.acquire()
                admissions.create_task(admit(*await self._inbox.get()))

    async def greet(self, address: PeerAddress, timeout_s: float = REQUEST_TIMEOUT_S) -> bool:
        """Say who and where we are, learn who else takes part. False when there is no answer."""
        try:
            others = await greet(self._transport, address, self._hello(), timeout_s)
        except (PeerUnreachable, InvalidData) as error:
            log.info("no welcome: %s", error)
            self._peers.failed(address.id)
            return False
        self._peers.succeeded(address.id)
        for other in others:
            self._peers.learn(other)
        return True

    async def exchange(self, peer: Peer, news: tuple[bytes, ...] = ()) -> bool:
        """Talk to one peer until neither side has anything to say. False when it does not answer.

        With `news`, authors of new records, only of these; else of everything in which the two differ. A peer that was
        never met, or that failed since, may not know this node: it is greeted first.
        """
        if (waiting := self._busy.get(peer.address.id)) is not None:
            waiting.update(dict.fromkeys(news))
            return True
        waiting = self._busy[peer.address.id] = {}
        answered = await self._exchange(peer, news)
        del self._busy[peer.address.id]
        return answered and (not waiting or await self.exchange(peer, tuple(waiting)))

    async def _exchange(self, peer: Peer, news: tuple[bytes, ...]) -> bool:
        if news:
            peer.sync = SyncState()
        try:
            if not peer.answered and not await self.greet(peer.address):
                return False
            for _ in range(MAX_TURNS):
                peer.sync, message = next_message(self._ledger.replica, peer.sync, news)
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
            self._ledger.confirm(message.set_digest)
            self.diverged.discard(peer.address.id)
            return
        if peer.address.id not in self.diverged:
            self.diverged.add(peer.address.id)
            log.error("peer %s holds another sum than this node for the same records", peer.address)
        raise Divergence(
            f"the sums of {peer.address.id.hex()[:8]} and this node differ for the same records. Compare both with a "
            "third node; the one that is wrong should move its folder away and join again."
        )
