"""Prints what docs/decisions/002 states, one JSON line a number: ``python tests/transport/measure.py``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path

from iroh import iroh_ffi

from spikemesh.errors import PeerUnreachable
from spikemesh.transport import PeerAddress
from spikemesh.transport.p2p import P2PTransport

MEGABYTE = 1 << 20
PEER = Path(__file__).with_name("echo_peer.py")


def say(name: str, value: float, unit: str) -> None:
    sys.stdout.write(json.dumps({"name": name, "value": float(f"{value:.3g}"), "unit": unit}) + "\n")
    sys.stdout.flush()


def slow_write(self, value):
    with self._reserve(len(value)):
        for i, byte in enumerate(value):
            self.rbuf.data[self.rbuf.len + i] = byte


def lowering_mb_per_s(num_bytes: int) -> float:
    data = os.urandom(num_bytes)
    start_s = time.perf_counter()
    iroh_ffi._UniffiFfiConverterBytes.lower(data).free()
    return num_bytes / (time.perf_counter() - start_s) / 1e6


async def spawn(key: bytes, port: int = 0) -> tuple[asyncio.subprocess.Process, PeerAddress]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, PEER, key.hex(), str(port), stdin=pipe, stdout=pipe)
    line = (await process.stdout.readline()).decode().split()
    return process, PeerAddress(id=bytes.fromhex(line[0]), addresses=tuple(line[1:]))


async def one_way_mb_per_s(a: P2PTransport, peer: PeerAddress, num_bytes: int) -> float:
    """Half of an echo: the same bytes go there and come back, never at the same time."""
    message = os.urandom(num_bytes)
    start_s = time.perf_counter()
    await a.request(peer, message, timeout_s=120, max_reply_bytes=num_bytes)
    return 2 * num_bytes / (time.perf_counter() - start_s) / 1e6


async def echo(_peer: bytes, request: bytes) -> bytes:
    return request


async def main() -> None:
    lowering_mb_per_s(8 * MEGABYTE)
    say("handing bytes to iroh, one move", lowering_mb_per_s(8 * MEGABYTE), "MB/s")
    ours, iroh_ffi._UniffiRustBufferBuilder.write = iroh_ffi._UniffiRustBufferBuilder.write, slow_write
    say("handing bytes to iroh, as generated", lowering_mb_per_s(MEGABYTE), "MB/s")
    iroh_ffi._UniffiRustBufferBuilder.write = ours

    key = os.urandom(32)
    a = P2PTransport(secret_key=os.urandom(32), bind="127.0.0.1:0")
    await a.start(echo)
    process, peer = await spawn(key)
    start_s = time.perf_counter()
    await a.request(peer, b"", timeout_s=5, max_reply_bytes=0)
    say("first request, connection included", (time.perf_counter() - start_s) * 1e3, "ms")
    start_s = time.perf_counter()
    for _ in range(500):
        await a.request(peer, b"", timeout_s=5, max_reply_bytes=0)
    say("request after request", (time.perf_counter() - start_s) / 500 * 1e3, "ms")
    start_s = time.perf_counter()
    await asyncio.gather(*(a.request(peer, bytes(4096), timeout_s=60, max_reply_bytes=4096) for _ in range(1000)))
    say("1000 echoes of 4 KB at once", time.perf_counter() - start_s, "s")
    await one_way_mb_per_s(a, peer, 8 * MEGABYTE)
    say("16 MB between processes", await one_way_mb_per_s(a, peer, 16 * MEGABYTE), "MB/s")
    iroh_ffi._UniffiRustBufferBuilder.write = slow_write
    say("4 MB, this side sending as generated", await one_way_mb_per_s(a, peer, 4 * MEGABYTE), "MB/s")
    iroh_ffi._UniffiRustBufferBuilder.write = ours

    for port, where in ((int(peer.addresses[0].rpartition(":")[2]), "the same port"), (0, "another port")):
        process.kill()
        await process.wait()
        process, peer = await spawn(key, port)
        start_s = time.perf_counter()
        await a.request(peer, b"", timeout_s=10, max_reply_bytes=0)
        say(f"request to a peer killed and restarted on {where}", time.perf_counter() - start_s, "s")
        start_s = time.perf_counter()
        await a.request(peer, b"", timeout_s=10, max_reply_bytes=0)
        say("  and the one after it", (time.perf_counter() - start_s) * 1e3, "ms")
    process.kill()
    await process.wait()
    start_s = time.perf_counter()
    with contextlib.suppress(PeerUnreachable):
        await a.request(peer, b"", timeout_s=60, max_reply_bytes=0)
    say("giving up on a dead peer", time.perf_counter() - start_s, "s")
    start_s = time.perf_counter()
    await a.close()
    say("close after dialling the dead", time.perf_counter() - start_s, "s")
    await wire()


async def wire() -> None:
    a, b = (P2PTransport(secret_key=os.urandom(32), bind="127.0.0.1:0") for _ in range(2))
    await a.start(echo)
    await b.start(echo)
    await a.request(b.address, b"", timeout_s=5, max_reply_bytes=0)
    for after_s in (2, 6):
        await asyncio.sleep(after_s)
        say(f"wire cost of opening one connection, {after_s} s later", a.statistics().wire_sent_bytes, "bytes each way")
    sent_bytes = a.statistics().wire_sent_bytes
    await asyncio.sleep(10)
    say("wire cost of an idle connection", (a.statistics().wire_sent_bytes - sent_bytes) / 10, "bytes/s each way")
    sent_bytes = a.statistics().wire_sent_bytes
    for _ in range(200):
        await a.request(b.address, b"", timeout_s=5, max_reply_bytes=0)
    say("wire cost of an empty request", (a.statistics().wire_sent_bytes - sent_bytes) / 200, "bytes each way")
    sent_bytes = a.statistics().wire_sent_bytes
    await a.request(b.address, bytes(16 * MEGABYTE), timeout_s=30, max_reply_bytes=16 * MEGABYTE)
    overhead = (a.statistics().wire_sent_bytes - sent_bytes) / (16 * MEGABYTE) - 1
    say("wire overhead of a 16 MB echo", overhead * 100, "%")
    await asyncio.gather(a.close(), b.close())


asyncio.run(main())
