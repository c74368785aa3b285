"""The network of a simulation: late, lossy, repeating, overtaking, cut in parts or in one direction."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from spikemesh.errors import PeerUnreachable
from spikemesh.transport import Handler, PeerAddress, TransportStatistics

log = logging.getLogger("spikemesh.sim")

FIRST_WAIT_S = 1.5
"""For a reply, before a request is sent again, then twice as long: what a real engine does for each lost packet."""


@dataclass(frozen=True, kw_only=True)
class Weather:
    """What happens to every message. Delays are drawn for each, so that messages overtake one another.

    A request and its reply are a message each: with a loss of 0.3, half of all requests get no answer.
    """

    delay_s: tuple[float, float] = (0.01, 0.2)
    loss: float = 0.0
    duplication: float = 0.0


@dataclass
class Links:
    """Decides on every message. A nemesis changes it while messages are under way."""

    weather: Weather
    sides: dict[bytes, int] = field(default_factory=dict)
    """While the network is cut: who is on which side. Who is on none reaches everybody."""
    mute: set[bytes] = field(default_factory=set)
    """What these send gets lost, and they hear everything: a one-way link."""
    slow_s: dict[bytes, float] = field(default_factory=dict)
    """What is added to the delay of everything that these send."""
    num_lost: int = 0

    def delay_s(self, sender: bytes, receiver: bytes, rng: random.Random) -> float | None:
        """Seconds until this message arrives, or None when it is lost."""
        lost = rng.random() < self.weather.loss
        delay_s = rng.uniform(*self.weather.delay_s) + self.slow_s.get(sender, 0.0)
        if lost or sender in self.mute or self._is_cut(sender, receiver):
            self.num_lost += 1
            return None
        return delay_s

    def _is_cut(self, sender: bytes, receiver: bytes) -> bool:
        sides = self.sides.get(sender), self.sides.get(receiver)
        return None not in sides and sides[0] != sides[1]

    def cut(self, *sides: Iterable[bytes]) -> None:
        """From now on nothing passes between `sides`."""
        self.sides = {peer: number for number, side in enumerate(sides) for peer in side}

    def heal(self) -> None:
        """The links are whole again; the weather stays."""
        self.sides, self.mute, self.slow_s = {}, set(), {}


Observer = Callable[[bytes, bytes, bytes, bool], None]
"""``observer(sender, receiver, data, is_reply)``: a request when it leaves, each time; a reply when it is taken."""


class Network:
    """Who is there, and how messages get from one to another: by timers alone, since there are millions of them."""

    def __init__(self, *, links: Links, rng: random.Random, observer: Observer) -> None:
        self.links, self.observer, self._rng = links, observer, rng
        self.open: dict[bytes, SimulatedTransport] = {}

    def carry(self, sender: bytes, receiver: bytes, arrive: Callable[[], None]) -> None:
        """Call `arrive` when the message does, if it does, twice if it is repeated."""
        for _ in range(1 + (self._rng.random() < self.links.weather.duplication)):
            delay_s = self.links.delay_s(sender, receiver, self._rng)
            if delay_s is not None:
                asyncio.get_running_loop().call_later(delay_s, arrive)


class SimulatedTransport:
    """One node of a `Network`. A name is free again after ``close``."""

    def __init__(self, network: Network, *, id: bytes) -> None:
        self._network, self._address = network, PeerAddress(id=id)
        self._handler: Handler | None = None
        self._waiting: dict[asyncio.Future[bytes], None] = {}
        self._answering: dict[asyncio.Task[bytes], None] = {}

    @property
    def address(self) -> PeerAddress:
        return self._address

    async def start(self, handler: Handler) -> None:
        if self._address.id in self._network.open:
            raise ValueError(f"peer {self._address} is in this network already")
        self._handler = handler
        self._network.open[self._address.id] = self

    async def request(self, peer: PeerAddress, message: bytes, *, timeout_s: float, max_reply_bytes: int) -> bytes:
        if self._handler is None:
            raise PeerUnreachable(f"peer {peer} was not asked: this node's transport is not open")
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[bytes] = loop.create_future()
        self._waiting[reply] = None
        late = loop.call_later(timeout_s, _fail, reply, f"peer {peer} did not answer within {timeout_s:g} s")
        self._send(peer.id, message, reply)

        def send_again(wait_s: float) -> None:
            self._send(peer.id, message, reply)
            again[0] = loop.call_later(2 * wait_s, send_again, 2 * wait_s)

        again = [loop.call_later(FIRST_WAIT_S, send_again, FIRST_WAIT_S)]
        try:
            data = await reply
        finally:
            late.cancel()
            again[0].cancel()
            del self._waiting[reply]
        if len(data) > max_reply_bytes:
            raise PeerUnreachable(f"peer {peer} wants to send {len(data)} bytes where {max_reply_bytes} are taken")
        self._network.observer(self._address.id, peer.id, data, True)
        return data

    def _send(self, peer: bytes, message: bytes, reply: asyncio.Future[bytes]) -> None:
        self._network.observer(self._address.id, peer, message, False)

        def arrive() -> None:
            receiver = self._network.open.get(peer)
            if receiver is None:
                _fail(reply, f"peer {peer.hex()[:10]} is not there")
            else:
                receiver._answer(self._address.id, message, reply)

        self._network.carry(self._address.id, peer, arrive)

    def _answer(self, sender: bytes, message: bytes, reply: asyncio.Future[bytes]) -> None:
        assert self._handler is not None
        task = asyncio.ensure_future(self._handler(sender, message))
        self._answering[task] = None

        def answered(_: object) -> None:
            self._answering.pop(task, None)
            if task.cancelled():
                return
            if (error := task.exception()) is not None:
                log.error("no answer for peer %s", sender.hex()[:10], exc_info=error)
                return
            self._network.carry(
                self._address.id, sender, lambda: None if reply.done() else reply.set_result(task.result())
            )

        task.add_done_callback(answered)

    def statistics(self) -> TransportStatistics:
        return TransportStatistics(num_requests_open=len(self._answering))

    async def close(self) -> None:
        """Requests in flight end in ``PeerUnreachable``, handlers are cancelled."""
        self._handler = None
        self._network.open.pop(self._address.id, None)
        for reply in self._waiting:
            _fail(reply, "this node's transport was closed")
        answering = [*self._answering]
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)


def _fail(reply: asyncio.Future[bytes], text: str) -> None:
    if not reply.done():
        reply.set_exception(PeerUnreachable(text))
