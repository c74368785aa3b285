"""A relay for tests: `python -m tests.network.relay HOST:PORT` passes sealed datagrams between those who dialled it.

It speaks what iroh 1 speaks to a relay, over plain HTTP and with no limits: nobody's network should hang on it. A
client opens a websocket on /relay and proves its key; a frame is its kind, then mostly a key and what is for it:

    0 challenge   16 random bytes, which the client signs      4, 5 one or several datagrams to a key
    1 proof       key, 64, signature                           6, 7 the same, from a key
    2 welcome                                                  8 a key that sent something is gone
    9, 10 ping and pong, 8 bytes

With port 0 it takes any. It prints its URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import IntEnum

from aiohttp import WSMsgType, web
from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

VERSIONS = ("iroh-relay-v2", "iroh-relay-v1")
SIGNED_AS = "iroh-relay handshake v1 challenge signature"
KEY_BYTES, SIGNATURE_BYTES = 32, 64
MAX_FRAME_BYTES = 1 << 20
MAX_WAITING = 512
"""Frames for one client; what comes beyond is lost, as at any router."""


class Kind(IntEnum):
    CHALLENGE = 0
    PROOF = 1
    WELCOME = 2
    TO_PEER = 4
    BATCH_TO_PEER = 5
    FROM_PEER = 6
    BATCH_FROM_PEER = 7
    GONE = 8
    PING = 9
    PONG = 10


PASSED_ON_AS = {Kind.TO_PEER: Kind.FROM_PEER, Kind.BATCH_TO_PEER: Kind.BATCH_FROM_PEER}


@dataclass(eq=False)
class Client:
    """Who is connected, what waits for it, and to whom it has sent."""

    key: bytes
    waiting: asyncio.Queue[bytes] = field(default_factory=lambda: asyncio.Queue(MAX_WAITING))
    sent_to: set[bytes] = field(default_factory=set)

    def give(self, kind: Kind, body: bytes) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self.waiting.put_nowait(bytes([kind]) + body)


class Relay:
    """`num_passed_on` counts the frames that went from one client to another."""

    def __init__(self) -> None:
        self.num_passed_on = 0
        self._clients: dict[bytes, Client] = {}

    @property
    def num_clients(self) -> int:
        return len(self._clients)

    def application(self) -> web.Application:
        made = web.Application()
        made.router.add_get("/relay", self._take_in)
        made.router.add_get("/ping", _nothing_to_say)  # how far away it is
        made.router.add_get("/generate_204", _nothing_to_say)  # whether somebody stands between
        return made

    @contextlib.asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[str]:
        """Its URL, while it runs."""
        runner = web.AppRunner(self.application(), shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            yield f"http://{host}:{runner.addresses[0][1]}/"
        finally:
            await runner.cleanup()

    async def _take_in(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=VERSIONS, max_msg_size=MAX_FRAME_BYTES)
        await socket.prepare(request)
        key = await _proven_key(socket)
        if key is None:
            await socket.close()
            return socket
        client = self._clients[key] = Client(key)  # the newest of a key is the living one
        client.give(Kind.WELCOME, b"")
        sending = asyncio.ensure_future(_send(socket, client))
        try:
            async for message in socket:
                if message.type == WSMsgType.BINARY and message.data:
                    self._take(client, message.data[0], message.data[1:])
        finally:
            sending.cancel()
            self._let_go(client)
        return socket

    def _take(self, client: Client, kind: int, body: bytes) -> None:
        if kind == Kind.PING:
            client.give(Kind.PONG, body)
        elif kind in PASSED_ON_AS:
            key = body[:KEY_BYTES]
            client.sent_to.add(key)
            if (peer := self._clients.get(key)) is not None:
                peer.give(PASSED_ON_AS[Kind(kind)], client.key + body[KEY_BYTES:])
                self.num_passed_on += 1

    def _let_go(self, client: Client) -> None:
        if self._clients.get(client.key) is not client:
            return
        del self._clients[client.key]
        for key in client.sent_to & self._clients.keys():
            self._clients[key].give(Kind.GONE, client.key)


async def _nothing_to_say(_request: web.Request) -> web.Response:
    return web.Response(status=204)


async def _proven_key(socket: web.WebSocketResponse) -> bytes | None:
    """The key that the client has shown to hold; None for one that has not."""
    challenge = os.urandom(16)
    await socket.send_bytes(bytes([Kind.CHALLENGE]) + challenge)
    message = await socket.receive()
    if message.type != WSMsgType.BINARY or len(message.data) != 2 + KEY_BYTES + SIGNATURE_BYTES:
        return None
    key, signature = message.data[1 : 1 + KEY_BYTES], message.data[-SIGNATURE_BYTES:]
    try:
        signed = blake3(challenge, derive_key_context=SIGNED_AS).digest()
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
    except (ValueError, InvalidSignature):
        return None
    return bytes(key)


async def _send(socket: web.WebSocketResponse, client: Client) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            await socket.send_bytes(await client.waiting.get())


async def _serve(where: str) -> None:
    host, _, port = where.rpartition(":")
    async with Relay().listening(host, int(port)) as url:
        print(url, flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
