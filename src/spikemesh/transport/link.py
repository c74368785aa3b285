"""One QUIC connection to one peer: frames on its streams, in both roles.

Every request is a stream of its own: a request frame there, a reply frame back. Whoever leaves early resets its side,
because a stream that is merely dropped ends as if it were complete.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from iroh.iroh_ffi import EndpointAddr, EndpointId

from spikemesh.transport.answering import Desk
from spikemesh.transport.base import HEADER, Kind, Limits, PeerAddress, check_reply
from spikemesh.transport.binding import FOREIGN_ERRORS
from spikemesh.transport.inflight import look

PIECE_BYTES = 4 << 20
"""Most bytes that cross the language border in one call."""

RECEIVE_WINDOW_BYTES = 16 << 20
"""Most bytes of one connection that wait unread in iroh. More than eight streams' own windows of 1.25 MB, so that
requests waiting for a place never starve the one that is being read."""

MAX_DIALLED_ADDRESSES = 16
"""Addresses of one peer that are tried. They come from others, and each tried one gets packets from us."""

LEFT = 1
"""Error code of a stream whose other end no longer wants it."""


async def write_frame(stream: Any, kind: Kind, body: bytes) -> None:
    """One frame and the end of the stream."""
    header = HEADER.pack(kind, len(body))
    await stream.write_all(header + body[:PIECE_BYTES])
    for start in range(PIECE_BYTES, len(body), PIECE_BYTES):
        await stream.write_all(body[start : start + PIECE_BYTES])
    await stream.finish()


async def read_header(stream: Any) -> tuple[int, int]:
    """Kind and body length that the peer announces; neither is trusted yet."""
    kind, num_bytes = HEADER.unpack(await stream.read_exact(HEADER.size))
    return kind, num_bytes


async def read_body(stream: Any, num_bytes: int) -> bytes:
    """Exactly the announced bytes. The caller has judged the number; memory grows only as they arrive."""
    pieces = []
    while num_bytes:
        pieces.append(await stream.read_exact(min(num_bytes, PIECE_BYTES)))
        num_bytes -= len(pieces[-1])
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Link:
    """A connection with what is being asked and answered on it."""

    def __init__(self, connection: Any, limits: Limits) -> None:
        self.connection = connection
        self.peer_id: bytes = connection.remote_id().to_bytes()
        self._limits = limits
        self._answering: set[asyncio.Task[None]] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        self._asking = asyncio.Semaphore(limits.max_requests_per_peer)
        self._num_asking = 0
        self.last_used_s = asyncio.get_running_loop().time()
        connection.set_max_concurrent_bi_streams(limits.max_requests_per_peer)
        connection.set_max_concurrent_uni_streams(0)
        connection.set_receive_window(RECEIVE_WINDOW_BYTES)

    @property
    def is_open(self) -> bool:
        return self.connection.close_reason() is None

    def wire_bytes(self) -> tuple[int, int]:
        """UDP payload sent and received on this connection, also after it was closed."""
        stats = self.connection.stats()
        return stats.udp_tx_bytes, stats.udp_rx_bytes

    def num_heard(self) -> int:
        """Datagrams received: grows within a round trip of any send while the peer lives, however busy it is."""
        return int(self.connection.stats().udp_rx_datagrams)

    def poke(self) -> None:
        """Makes a living peer's QUIC acknowledge something. It costs 30 bytes each way and the peer never reads it."""
        with suppress(*FOREIGN_ERRORS):  # a closed connection shows where it is used
            self.connection.send_datagram(b"")

    def round_trip_s(self) -> float:
        return (self.connection.rtt() or 0) / 1000

    def idle_s(self) -> float:
        """Seconds since the last request in either direction; 0 while one is open."""
        if self._num_asking or self._answering:
            return 0.0
        return asyncio.get_running_loop().time() - self.last_used_s

    def close(self, reason: bytes) -> None:
        """At once, without waiting for the peer. Requests on it fail on both sides."""
        for task in self._answering:
            task.cancel()
        self.connection.close(0, reason)

    async def ask(
        self, peer: PeerAddress, message: bytes, max_reply_bytes: int, sent: asyncio.Future[int] | None = None
    ) -> bytes:
        """The reply. ``PeerUnreachable`` for a reply that is not one; foreign errors pass, the caller may try again.

        ``sent`` becomes ``num_heard()`` of the moment at which the request leaves, after any wait for a place.
        """
        self._num_asking += 1
        try:
            async with self._asking:
                stream = await self.connection.open_bi()
                if sent is not None and not sent.done():
                    sent.set_result(self.num_heard())
                return await self._ask(stream, peer, message, max_reply_bytes)
        finally:
            self._num_asking -= 1
            self.last_used_s = asyncio.get_running_loop().time()

    async def _ask(self, stream: Any, peer: PeerAddress, message: bytes, max_reply_bytes: int) -> bytes:
        writing = asyncio.ensure_future(write_frame(stream.send(), Kind.REQUEST, message))
        writing.add_done_callback(look)
        done = False
        try:
            receiving = stream.recv()
            kind, num_bytes = await read_header(receiving)
            check_reply(peer, kind, num_bytes, max_reply_bytes)
            reply = await read_body(receiving, num_bytes)
            await writing
            done = True
            return reply
        finally:
            writing.cancel()
            if not done:
                self._leave(stream, writing)

    def _leave(self, stream: Any, writing: asyncio.Future[None] | None = None) -> None:
        """Reset both sides of a stream behind the back of whoever was cancelled; it takes one turn of the loop."""
        task = asyncio.ensure_future(_reset(stream, writing))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def serve(self, desk: Desk) -> None:
        """Answers the peer's requests until the connection ends."""
        try:
            while True:
                stream = await self.connection.accept_bi()
                task = asyncio.ensure_future(self._answer(stream, desk))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
        except FOREIGN_ERRORS:
            pass
        finally:
            for task in [*self._answering]:
                task.cancel()
            await asyncio.gather(*self._answering, *self._leaving, return_exceptions=True)

    async def _answer(self, stream: Any, desk: Desk) -> None:
        done = False
        try:
            async with asyncio.timeout(self._limits.receive_timeout_s):
                kind, num_bytes = await read_header(stream.recv())
            if kind != Kind.REQUEST:
                return
            if num_bytes > self._limits.max_request_bytes:
                await stream.send().write_all(HEADER.pack(Kind.TOO_LARGE, self._limits.max_request_bytes))
                await stream.send().finish()
                await stream.recv().stop(LEFT)
                done = True
            else:
                async with desk.place(self.peer_id):
                    done = await self._reply(stream, num_bytes, desk)
        except (TimeoutError, *FOREIGN_ERRORS):
            return
        finally:
            self.last_used_s = asyncio.get_running_loop().time()
            if not done:
                self._leave(stream)

    async def _reply(self, stream: Any, num_bytes: int, desk: Desk) -> bool:
        """False when the peer left before its answer was ready; the handler is cancelled then."""
        async with asyncio.timeout(self._limits.receive_timeout_s):
            request = await read_body(stream.recv(), num_bytes)
        sending = stream.send()
        answer = asyncio.ensure_future(desk.answer(self.peer_id, request))
        left = asyncio.ensure_future(sending.stopped())
        left.add_done_callback(look)
        try:
            await asyncio.wait({answer, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
            if not answer.done():
                answer.cancel()
            await asyncio.wait({answer, left})
        if answer.cancelled():
            return False
        async with asyncio.timeout(self._limits.receive_timeout_s):
            await write_frame(sending, *answer.result())
        return True


async def _reset(stream: Any, writing: asyncio.Future[None] | None) -> None:
    if writing is not None:
        await asyncio.wait({writing})
    for leave in (stream.send().reset, stream.recv().stop):
        try:
            await leave(LEFT)
        except FOREIGN_ERRORS:
            continue


async def handshake(incoming: Any, limits: Limits, timeout_s: float) -> Link:
    """The link of a connection that a peer opened. Raises ``TimeoutError`` and foreign errors."""
    async with asyncio.timeout(timeout_s):
        return Link(await (await incoming.accept()).connect(), limits)


def endpoint_address(peer: PeerAddress, relay_url: str | None) -> Any:
    """Iroh's form of an address. Raises foreign errors for an id that is no public key.

    ``relay_url`` is this node's own relay. Another one is left out: iroh would open it, and a peer could name any URL.
    """
    addresses = list(peer.addresses[:MAX_DIALLED_ADDRESSES])
    shared = relay_url if peer.relay_url == relay_url else None
    return EndpointAddr(EndpointId.from_bytes(peer.id), shared, addresses)
