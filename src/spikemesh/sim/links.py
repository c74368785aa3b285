"""The network of a simulation: late, lossy, repeating, overtaking, cut in parts or in one direction."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from spikemesh.errors import PeerUnreachable
from spikemesh.transport import Handler, PeerAddress, Transport, TransportStatistics


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
    """The `link` of a `MemoryNetwork`. A nemesis changes it while messages are under way."""

    weather: Weather
    sides: dict[bytes, int] = field(default_factory=dict)
    """While the network is cut: who is on which side. Who is on none reaches everybody."""
    mute: set[bytes] = field(default_factory=set)
    """What these send gets lost, and they hear everything: a one-way link."""
    slow_s: dict[bytes, float] = field(default_factory=dict)
    """What is added to the delay of everything that these send."""
    num_lost: int = 0

    def __call__(self, sender: bytes, receiver: bytes, rng: random.Random) -> float | None:
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


Observer = Callable[[bytes, bytes, bytes, bytes | None], None]
"""``observer(sender, receiver, request, reply)``: first when the request leaves, then when its reply has arrived."""


async def _unheard(request: Awaitable[bytes]) -> None:
    """A repeated request: what comes of it, nobody waits for."""
    with contextlib.suppress(PeerUnreachable):
        await request


class Observed:
    """A transport whose requests are watched, and arrive twice with the weather's probability."""

    def __init__(self, inner: Transport, *, links: Links, rng: random.Random, observer: Observer) -> None:
        self._inner, self._links, self._rng, self._observer = inner, links, rng, observer
        self._repeats: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> PeerAddress:
        return self._inner.address

    async def start(self, handler: Handler) -> None:
        await self._inner.start(handler)

    async def request(self, peer: PeerAddress, message: bytes, *, timeout_s: float, max_reply_bytes: int) -> bytes:
        async def ask() -> bytes:
            return await self._inner.request(peer, message, timeout_s=timeout_s, max_reply_bytes=max_reply_bytes)

        self._observer(self.address.id, peer.id, message, None)
        if self._rng.random() < self._links.weather.duplication:
            self._observer(self.address.id, peer.id, message, None)
            repeat = asyncio.ensure_future(_unheard(ask()))
            self._repeats.add(repeat)
            repeat.add_done_callback(self._repeats.discard)
        reply = await ask()
        self._observer(self.address.id, peer.id, message, reply)
        return reply

    def statistics(self) -> TransportStatistics:
        return self._inner.statistics()

    async def close(self) -> None:
        await self._inner.close()
        await asyncio.gather(*self._repeats)
