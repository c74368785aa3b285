"""A network inside one process: deterministic, for tests and simulations of thousands of nodes.

Time is the event loop's, so a loop with a virtual clock runs it without waiting.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from spikemesh.errors import PeerUnreachable
from spikemesh.transport.answering import Desk
from spikemesh.transport.base import (
    HEADER,
    Handler,
    Kind,
    Limits,
    PeerAddress,
    TransportStatistics,
    check_reply,
    check_request,
)
from spikemesh.transport.inflight import InFlight

Link = Callable[[bytes, bytes, random.Random], float | None]
"""``link(sender_id, receiver_id, rng)``: seconds until this message arrives, or None when it is lost."""


def perfect_link(_sender: bytes, _receiver: bytes, _rng: random.Random) -> float | None:
    """Every message arrives at once."""
    return 0.0


class MemoryNetwork:
    """What ``MemoryTransport``s share: who is there, and a link that decides on every message."""

    def __init__(self, *, link: Link = perfect_link, rng: random.Random | None = None) -> None:
        self.link = link
        self.rng = rng or random.Random(0)
        self.nodes: dict[bytes, MemoryTransport] = {}

    async def carry(self, sender: bytes, receiver: bytes) -> None:
        """Returns when one message has arrived. A lost one never does: the requester's timeout speaks."""
        delay_s = self.link(sender, receiver, self.rng)
        if delay_s is None:
            await asyncio.get_running_loop().create_future()
        elif delay_s > 0:
            await asyncio.sleep(delay_s)


class MemoryTransport:
    """One node of a ``MemoryNetwork``. A name is free again after ``close``."""

    def __init__(self, network: MemoryNetwork, *, id: bytes, limits: Limits | None = None) -> None:
        self._network = network
        self._address = PeerAddress(id=id)
        self._limits = limits or Limits()
        self._desk: Desk | None = None
        self._closed = False
        self._requests = InFlight()
        self._answers = InFlight()
        self._sent_bytes = 0
        self._received_bytes = 0

    @property
    def address(self) -> PeerAddress:
        return self._address

    async def start(self, handler: Handler) -> None:
        if self._desk is not None or self._closed:
            raise ValueError("a transport starts once")
        if self._address.id in self._network.nodes:
            raise ValueError(f"peer {self._address} is in this network already")
        self._desk = Desk(handler, self._limits)
        self._network.nodes[self._address.id] = self

    async def request(self, peer: PeerAddress, message: bytes, *, timeout_s: float, max_reply_bytes: int) -> bytes:
        check_request(message, timeout_s, max_reply_bytes)
        if self._desk is None or self._closed:
            raise PeerUnreachable(f"peer {peer} was not asked: this node's transport is not open")
        return await self._requests.run(
            self._exchange(peer, message, max_reply_bytes),
            timeout_s=timeout_s,
            late=f"peer {peer} did not answer within {timeout_s:g} s",
            closed=f"peer {peer} had not answered when this node's transport was closed",
        )

    async def _exchange(self, peer: PeerAddress, message: bytes, max_reply_bytes: int) -> bytes:
        mine = self._address.id
        node = self._network.nodes.get(peer.id)
        if node is None or node is self:
            raise PeerUnreachable(f"peer {peer} is not another node of this network")
        self._sent_bytes += HEADER.size + len(message)
        await self._network.carry(mine, peer.id)
        kind, reply = await node._answers.run(
            node._serve(mine, message), timeout_s=None, late="", closed=f"peer {peer} closed before it answered"
        )
        await self._network.carry(peer.id, mine)
        announced = node._limits.max_request_bytes if kind is Kind.TOO_LARGE else len(reply)
        check_reply(peer, kind, announced, max_reply_bytes)
        self._received_bytes += HEADER.size + len(reply)
        return reply

    async def _serve(self, sender: bytes, message: bytes) -> tuple[Kind, bytes]:
        if self._desk is None or self._closed:
            raise PeerUnreachable(f"peer {self._address} is closed")
        if len(message) > self._limits.max_request_bytes:
            return Kind.TOO_LARGE, b""
        async with self._desk.place(sender):
            self._received_bytes += HEADER.size + len(message)
            kind, reply = await self._desk.answer(sender, message)
            self._sent_bytes += HEADER.size + len(reply)
            return kind, reply

    def statistics(self) -> TransportStatistics:
        return TransportStatistics(
            num_requests_open=self._desk.num_open if self._desk else 0,
            wire_sent_bytes=self._sent_bytes,
            wire_received_bytes=self._received_bytes,
        )

    async def close(self) -> None:
        self._closed = True
        if self._network.nodes.get(self._address.id) is self:
            del self._network.nodes[self._address.id]
        await self._requests.close()
        await self._answers.close()
