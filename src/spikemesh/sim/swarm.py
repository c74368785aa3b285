"""Many nodes in one process: real node code on a virtual clock, simulated links and disks in memory."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from spikemesh.codec import decode_message
from spikemesh.errors import PromiseBroken
from spikemesh.node import GossipConfig, Ledger, Node
from spikemesh.node.clock import inline
from spikemesh.sim.clock import VirtualClock
from spikemesh.sim.disk import MemoryStore
from spikemesh.sim.history import History
from spikemesh.sim.links import Links, Network, SimulatedTransport, Weather
from spikemesh.sim.run import GENESIS, RUN_ID, THETA0, contribution, peer_id
from spikemesh.sim.shared import Pool
from spikemesh.sim.traffic import Traffic
from spikemesh.transport import PeerAddress

LOOK_S = 0.5
"""Between two looks at whether something has happened."""


@dataclass
class Member:
    """A volunteer, up or down. Its disk and the peers it knew outlive its crashes."""

    number: int
    store: MemoryStore = field(default_factory=MemoryStore)
    contacts: tuple[PeerAddress, ...] = ()
    node: Node | None = None


class Swarm:
    """Everything random comes from one seed, in an order that the virtual clock decides."""

    def __init__(
        self, *, seed: int = 0, weather: Weather | None = None, gossip: GossipConfig | None = None, meter: bool = False
    ) -> None:
        self.clock, self.history, self.rng = VirtualClock(), History(), random.Random(seed)
        self.links = Links(weather or Weather())
        self.gossip = gossip or GossipConfig()
        self.members: dict[int, Member] = {}
        self.traffic = Traffic()
        self._running: dict[int, AsyncExitStack] = {}
        self._seed, self._meter, self._pool = seed, meter, Pool()
        self._network = Network(links=self.links, rng=random.Random(f"links {seed}"), observer=self._observe)

    async def __aenter__(self) -> Swarm:
        return self

    async def __aexit__(self, *error: object) -> None:
        for running in self._running.values():
            await running.aclose()

    # --- what volunteers do

    async def start(self, number: int, *contacts: int) -> Node:
        """Volunteer `number` joins or comes back, in touch with `contacts` and whoever it knew; up when it returns."""
        member = self.members.setdefault(number, Member(number))
        if member.node is not None:
            raise ValueError(f"node {number} is up already")
        self._note("start", number)
        node = await self.open(member)
        known = {address.id: address for address in (*map(_address, contacts), *member.contacts)}
        entering = asyncio.ensure_future(node.enter(tuple(known.values())))
        self._running[number].push_async_callback(_cancelled, entering)
        await asyncio.wait({entering})
        if not entering.cancelled():  # by a crash
            entering.result()
        return node

    async def open(self, member: Member, ledger: Ledger | None = None) -> Node:
        """The node of a member, gossiping, before it has met anybody."""
        ledger = ledger or Ledger.open(member.store, GENESIS, RUN_ID, THETA0)
        ledger.replica = self._pool.share(ledger.replica)
        stack = AsyncExitStack()
        rng = random.Random(f"node {self._seed} {member.number} {self.history.counts['start']}")
        transport = SimulatedTransport(self._network, id=peer_id(member.number))
        node = Node(ledger=ledger, transport=transport, clock=self.clock, rng=rng, gossip=self.gossip, offload=inline)
        await transport.start(node.serve)
        stack.push_async_callback(transport.close)
        stack.push_async_callback(_cancelled, asyncio.ensure_future(node.run()))
        member.node, self._running[member.number] = node, stack
        return node

    async def crash(self, number: int) -> None:
        """The process is gone in the middle of whatever it did. So is a volunteer who leaves: nobody says goodbye."""
        member = self.members[number]
        if member.node is None:
            raise ValueError(f"node {number} is down already")
        self._note("crash", number)
        before, member.contacts = member.node.ledger.replica, member.node.peers.addresses()
        member.node = None
        await self._running.pop(number).aclose()
        reopened = Ledger.open(member.store, GENESIS, RUN_ID, THETA0).replica
        self.history.check_kept(number, before, reopened)
        self.history.check_digests([before, reopened])

    async def publish(self, number: int) -> bytes:
        """A round of volunteer `number`: acknowledged when it returns. The record's id."""
        node = self.node(number)
        records = node.ledger.replica.records
        record, delta = contribution(number, node.ledger.next_seq(node.id), seen=records.context)
        await node.publish(record, {blake3(delta).digest(): delta})
        self.history.acknowledge(record, delta)
        self._note("publish", record.id)
        return record.id

    # --- looking

    def node(self, number: int) -> Node:
        node = self.members[number].node
        if node is None:
            raise ValueError(f"node {number} is down")
        return node

    @property
    def up(self) -> list[int]:
        return [number for number, member in self.members.items() if member.node is not None]

    def ids(self, numbers: Iterable[int]) -> list[bytes]:
        return [*map(peer_id, numbers)]

    def num_holding(self, record_id: bytes, author: int) -> int:
        """How many of those that are up hold this record of `author`."""
        logs = (self.node(number).ledger.replica.records.logs.get(peer_id(author), {}) for number in self.up)
        return sum(any(record.id == record_id for held in log.values() for record in held) for log in logs)

    async def until(self, condition: Callable[[], bool], *, within_s: float, what: str) -> float:
        """Virtual seconds until `condition` holds; every look also compares all digests."""
        start_s = self.clock.monotonic_s()
        while not condition():
            if self.clock.monotonic_s() - start_s > within_s:
                raise PromiseBroken(f"{what} did not happen within {within_s:g} virtual seconds")
            await self.clock.sleep(LOOK_S)
            self.history.check_digests(self.node(number).ledger.replica for number in self.up)
        return self.clock.monotonic_s() - start_s

    async def until_equal(self, numbers: Iterable[int] | None = None, *, within_s: float = 300.0) -> float:
        """Until all of `numbers`, or all that are up, hold the same records."""
        asked = [*numbers] if numbers is not None else None

        def equal() -> bool:
            return len({self.node(n).ledger.replica.records.digest for n in asked or self.up}) == 1

        return await self.until(equal, within_s=within_s, what="equal digests")

    async def settle(self, *, within_s: float = 300.0) -> float:
        """Until everybody who is up holds everything that was acknowledged, and all checks pass. Seconds it took."""

        def settled() -> bool:
            replicas = [self.node(number).ledger.replica for number in self.up]
            first = replicas[0].records
            return all(r.records.digest == first.digest for r in replicas) and all(
                record in first for record in self.history.acknowledged.values()
            )

        took_s = await self.until(settled, within_s=within_s, what="everybody holding everything acknowledged")
        self.history.check_end({number: self.node(number).ledger.replica for number in self.up})
        return took_s

    def _note(self, what: str, fact: bytes | float) -> None:
        self.history.note(self.clock.monotonic_s(), what, fact)

    def _observe(self, asker: bytes, asked: bytes, data: bytes, is_reply: bool) -> None:
        what = "reply" if is_reply else "request"
        self.history.note(self.clock.monotonic_s(), what, asker[:8], asked[:8], blake3(data).digest(8))
        if self._meter:
            self.traffic.add(asker if is_reply else asked, len(data), decode_message(data))


def _address(number: int) -> PeerAddress:
    return PeerAddress(id=peer_id(number))


async def _cancelled(task: asyncio.Future[Any]) -> None:
    """End what a node does. An error that ended it before is a fault of ours, and raised."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
