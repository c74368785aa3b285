"""A small run and its nodes in one process: real stores, in-process network, virtual time, a trainee without torch."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from spikemesh.codec import TOP_K, QuantisedDelta, encode_delta, quantise, select_top_k
from spikemesh.crdt import Record
from spikemesh.node import WINDOW_BYTES, Ledger, Node
from spikemesh.node.clock import inline
from spikemesh.sim import VirtualClock, run_virtually
from spikemesh.sim.run import GENESIS, NUM_COORDINATES, RUN_ID, THETA0, identity
from spikemesh.store import Store
from spikemesh.transport import Link, MemoryNetwork, MemoryTransport


async def publish(node: Node, record: Record, delta: bytes | None = None) -> None:
    await node.publish(record, {} if delta is None else {blake3(delta).digest(): delta})


def digests(node: Node) -> tuple[bytes, bytes]:
    replica = node.ledger.replica
    return replica.records.digest, replica.sum.digest


class World:
    """Opens nodes; leaving it closes all of them."""

    def __init__(self, folder: Path, link: Link | None = None, seed: int = 0) -> None:
        self.folder = folder
        self.clock = VirtualClock()
        rng = random.Random(seed)
        self.network = MemoryNetwork(rng=rng) if link is None else MemoryNetwork(link=link, rng=rng)
        self._open: dict[int, AsyncExitStack] = {}

    async def __aenter__(self) -> World:
        return self

    async def __aexit__(self, *error: object) -> None:
        for number in list(self._open):
            await self.stop(number)

    async def start(
        self,
        number: int,
        *contacts: Node,
        folder: str | None = None,
        prepare: Callable[[Node], None] = lambda node: None,
        window_bytes: int = WINDOW_BYTES,
    ) -> Node:
        """Node `number`, from its folder if it has one, in touch with `contacts`, gossiping."""
        stack = AsyncExitStack()
        store = stack.enter_context(Store.open(self.folder / (folder or f"node-{number}")))
        transport = MemoryTransport(self.network, id=identity(number).id)
        node = Node(
            ledger=Ledger.open(store, GENESIS, RUN_ID, THETA0, window_bytes),
            transport=transport,
            clock=self.clock,
            rng=random.Random(number),
            offload=inline,
        )
        prepare(node)
        await transport.start(node.serve)
        stack.push_async_callback(transport.close)
        running = asyncio.ensure_future(node.run())
        stack.push_async_callback(_cancelled, running)
        self._open[number] = stack
        await node.enter(tuple(contact.transport.address for contact in contacts))
        return node

    async def stop(self, number: int) -> None:
        """As if the process were gone: nothing is saved on the way out."""
        await self._open.pop(number).aclose()

    async def until(self, condition: Callable[[], bool], *, timeout_s: float) -> float:
        """Virtual seconds until `condition` holds; fails after `timeout_s`."""
        start_s = self.clock.monotonic_s()
        while not condition():
            if self.clock.monotonic_s() - start_s > timeout_s:
                raise AssertionError(f"did not happen within {timeout_s} virtual seconds")
            await self.clock.sleep(0.1)
        return self.clock.monotonic_s() - start_s

    async def until_equal(self, *nodes: Node, timeout_s: float = 60.0) -> float:
        return await self.until(lambda: len({digests(node) for node in nodes}) == 1, timeout_s=timeout_s)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@dataclass(frozen=True, kw_only=True)
class Round:
    delta: bytes
    weight: int
    num_tokens: int = 8


@dataclass(frozen=True, kw_only=True)
class Step:
    loss: float
    num_tokens: int = 2
    spike_rate: float = 0.1


class NumpyTrainee:
    """Moves its live weights by seeded noise: enough to see what is absorbed, kept, rewound and resumed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.base = THETA0.copy()
        self.live = THETA0.copy()
        self.step = 0
        self.round_steps = 0
        self.absorbed: list[npt.NDArray[np.float32]] = []
        self.extracted: list[tuple[int, float]] = []

    def absorb(self, theta: npt.NDArray[np.float32]) -> None:
        self.live, self.base = theta + (self.live - self.base), theta.copy()
        self.absorbed.append(theta)

    def train(self, num_steps: int, progress: float, poll: Any, on_step: Any) -> None:
        for _ in range(num_steps):
            if (theta := poll()) is not None:
                self.absorb(theta)
            noise = np.random.default_rng([self.seed, self.step]).standard_normal(NUM_COORDINATES)
            self.live = self.live + noise.astype(np.float32) * np.float32(0.01)
            self.step += 1
            self.round_steps += 1
            on_step(Step(loss=1.0 / self.step))

    def extract(self, num_authors: int, staleness: float) -> Round:
        self.extracted.append((num_authors, staleness))
        progress = self.live - self.base
        indices = select_top_k(progress, 0.25)
        codes, scales = quantise(progress[indices], TOP_K, GENESIS.grid_exponent)
        self.live, self.round_steps = self.base.copy(), 0
        delta = encode_delta(QuantisedDelta(NUM_COORDINATES, indices, codes, scales, TOP_K))
        return Round(delta=delta, weight=max(1, 4096 // num_authors))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        return {"live": self.live.copy(), "base": self.base.copy(), "steps": np.array([self.step, self.round_steps])}

    def load_state(self, state: Mapping[str, npt.NDArray[Any]], /) -> None:
        self.live, self.base = state["live"].copy(), state["base"].copy()
        self.step, self.round_steps = (int(number) for number in state["steps"])


def in_world(folder: Path, story: Callable[[World], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run `story` in a new world, in virtual time."""

    async def tell() -> None:
        async with World(folder, **options) as world:
            await story(world)

    run_virtually(tell())
