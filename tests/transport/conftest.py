"""One world per kind of transport; every test of the conformance suite runs in each. In memory, time is virtual."""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.hang import HANG_S

from spikemesh.sim import run_virtually
from spikemesh.transport import (
    Handler,
    Limits,
    MemoryNetwork,
    MemoryTransport,
    Metered,
    PeerAddress,
    Transport,
)
from spikemesh.transport.p2p import P2PTransport

ECHO_PEER = Path(__file__).with_name("echo_peer.py")


async def echo(_peer: bytes, request: bytes) -> bytes:
    return request


class Process:
    """A peer in another process."""

    def __init__(self, process: asyncio.subprocess.Process, address: PeerAddress) -> None:
        self.process = process
        self.address = address

    @classmethod
    async def spawn(cls, key: bytes, port: int = 0) -> Process:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(ECHO_PEER), key.hex(), str(port), stdin=pipe, stdout=pipe, stderr=pipe
        )
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), HANG_S)).decode().split()
        assert line, "the peer process ended before it said its address"
        return cls(process, PeerAddress(id=bytes.fromhex(line[0]), addresses=tuple(line[1:])))

    @property
    def port(self) -> int:
        return int(self.address.addresses[0].rpartition(":")[2])

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


class World:
    """Makes nodes of one kind that can reach each other, and ends them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.base, _, self.wrapping = kind.partition("+")
        self.network = MemoryNetwork()
        self.rng = random.Random(7)
        self._made: list[Transport] = []
        self._processes: list[Process] = []

    def key(self) -> bytes:
        return self.rng.randbytes(32)

    def bare(self, key: bytes | None = None, limits: Limits | None = None, **options: Any) -> Transport:
        key = key or self.key()
        if self.base == "memory":
            return MemoryTransport(self.network, id=hashlib.sha256(key).digest(), limits=limits)
        options = {"bind": "127.0.0.1:0", "dial_timeout_s": HANG_S} | options
        return P2PTransport(secret_key=key, limits=limits, **options)

    def wrap(self, inner: Transport) -> Transport:
        return Metered(inner) if self.wrapping == "meter" else inner

    async def node(
        self, handler: Handler = echo, key: bytes | None = None, limits: Limits | None = None, **options: Any
    ) -> Transport:
        transport = self.wrap(self.bare(key, limits, **options))
        await transport.start(handler)
        self._made.append(transport)
        return transport

    async def doomed(self, key: bytes, port: int = 0) -> tuple[PeerAddress, Callable[[], Awaitable[None]]]:
        """An echo peer that answers ``hang`` never, and how to kill it. A process where there is a real network."""
        if self.base == "p2p":
            process = await Process.spawn(key, port)
            self._processes.append(process)
            return process.address, process.kill

        async def handler(peer: bytes, request: bytes) -> bytes:
            return await (silent(peer, request) if request == b"hang" else echo(peer, request))

        transport = await self.node(handler, key)
        return transport.address, transport.close

    async def close(self) -> None:
        for process in self._processes:
            await process.kill()
        await asyncio.gather(*(transport.close() for transport in self._made))


async def silent(_peer: bytes, _request: bytes) -> bytes:
    await asyncio.Event().wait()
    return b""


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what another task or process brings about; fails when it hangs."""
    async with asyncio.timeout(HANG_S):
        while not condition():
            await asyncio.sleep(0.002)


def run_in(world: World, scenario: Callable[[World], Awaitable[None]]) -> None:
    """Runs the scenario, closes everything, and sees that no task is left."""

    async def whole() -> None:
        try:
            async with asyncio.timeout(HANG_S):
                await scenario(world)
        finally:
            await asyncio.wait_for(world.close(), HANG_S)
        await until(lambda: len(asyncio.all_tasks()) == 1)

    if world.base == "memory":
        run_virtually(whole())
    else:
        asyncio.run(whole())


KINDS = ["memory", "p2p", "memory+meter", "p2p+meter"]


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    yield World(request.param)


@pytest.fixture
def p2p_world() -> World:
    return World("p2p")


@pytest.fixture(scope="session")
def run() -> Callable[[World, Callable[[World], Awaitable[None]]], None]:
    return run_in


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Awaitable[None]]:
    return until


@pytest.fixture(scope="session")
def spawn() -> Callable[..., Awaitable[Process]]:
    return Process.spawn
