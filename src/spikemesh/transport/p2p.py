"""Peers over the internet: QUIC by iroh, dialled by public key.

One endpoint for the life of the process, one connection to a peer used in both directions and kept. A peer that was
killed leaves a connection that looks open for 30 s; it is recognised because nothing comes back on it, not even an
acknowledgement, while a request is on it, and then the request goes over a fresh one. While an answer takes long, an
empty datagram a second asks for that acknowledgement.
"""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import suppress
from typing import Any

from iroh.iroh_ffi import EndpointBuilder, RelayMode

from spikemesh.errors import PeerUnreachable, TransportError
from spikemesh.transport.answering import Desk
from spikemesh.transport.base import Handler, Limits, PeerAddress, TransportStatistics, check_request
from spikemesh.transport.binding import FOREIGN_ERRORS, speed_up_writes
from spikemesh.transport.inflight import InFlight
from spikemesh.transport.link import Link, handshake
from spikemesh.transport.pool import ALPN, Pool

speed_up_writes()

STALE_AFTER_S = 1.0
"""A connection on which nothing was heard for this long (or four round trips) while a request is on it is dead."""

CLOSE_WAIT_S = 0.5
BIND_TIMEOUT_S = 10.0

_RECEIVED = ("recv_data_ipv4", "recv_data_ipv6", "recv_data_relay")
_COUNTER_END = 2**32 - 1  # the endpoint's own counters stop here


class P2PTransport:
    """A node on the network.

    ``secret_key``: 32 bytes of Ed25519 seed, the node's identity. ``bind``: ``host:port`` with port 0 for any; when
    the port is taken any other is used. ``relay_url``: a relay for peers that cannot reach each other directly. No
    other relay is ever contacted, whatever peers say of themselves; by default none is, and nothing but the peers' own
    addresses.
    """

    def __init__(
        self,
        *,
        secret_key: bytes,
        bind: str = "0.0.0.0:0",
        relay_url: str | None = None,
        dial_timeout_s: float = 5.0,
        limits: Limits | None = None,
    ) -> None:
        if len(secret_key) != 32:
            raise ValueError(f"secret_key is 32 bytes of Ed25519 seed, got {len(secret_key)} bytes")
        self._secret_key = secret_key
        self._bind = bind
        self._relays, self._relay_url = _relay(relay_url)
        self._dial_timeout_s = dial_timeout_s
        self._limits = limits or Limits()
        self._pool = Pool(self._limits, self._serve, relay_url=self._relay_url)
        self._requests = InFlight()
        self._tasks: set[asyncio.Task[None]] = set()
        self._num_handshakes = 0
        self._num_refused = 0
        self._wire_bytes = (0, 0)
        self._endpoint: Any = None
        self._desk: Desk | None = None
        self._closed = False

    @property
    def address(self) -> PeerAddress:
        if self._endpoint is None:
            raise ValueError("the address is known after start")
        sockets = self._endpoint.bound_sockets()
        known = [*(s for s in sockets if not _host(s).is_unspecified), *self._endpoint.addr().direct_addresses()]
        known = known or ["127.0.0.1:" + sockets[0].rpartition(":")[2]]
        # The relay even while it is silent: iroh goes on trying it, and a ticket is read later than it is written.
        return PeerAddress(
            id=self._endpoint.id().to_bytes(), addresses=tuple(dict.fromkeys(known)), relay_url=self._relay_url
        )

    async def is_relayed(self, *, timeout_s: float) -> bool:
        """Whether the relay takes this node in within ``timeout_s``. Valid after ``start``, with a ``relay_url``."""
        try:
            await asyncio.wait_for(self._endpoint.online(), timeout_s)
            return True
        except (TimeoutError, *FOREIGN_ERRORS):
            return False

    async def start(self, handler: Handler) -> None:
        if self._endpoint is not None or self._closed:
            raise ValueError("a transport starts once")
        self._endpoint = await self._open()
        self._pool.endpoint = self._endpoint
        self._desk = Desk(handler, self._limits)
        self._spawn(self._accept())
        self._spawn(self._sweep())

    async def _open(self) -> Any:
        failure: Exception | None = None
        for sockets in _sockets(self._bind):
            builder = EndpointBuilder()
            try:
                builder.apply_minimal()
                builder.secret_key(self._secret_key)
                builder.alpns([ALPN])
                builder.relay_mode(self._relays)
                for socket in sockets:
                    builder.bind_addr(socket)
                return await asyncio.wait_for(builder.bind(), BIND_TIMEOUT_S)
            except (TimeoutError, *FOREIGN_ERRORS) as error:
                failure = error
        raise TransportError(f"no socket can be opened on {self._bind}: name an address of this machine") from failure

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def request(self, peer: PeerAddress, message: bytes, *, timeout_s: float, max_reply_bytes: int) -> bytes:
        check_request(message, timeout_s, max_reply_bytes)
        if self._desk is None or self._closed:
            raise PeerUnreachable(f"peer {peer} was not asked: this node's transport is not open")
        return await self._requests.run(
            self._ask(peer, message, timeout_s, max_reply_bytes),
            timeout_s=timeout_s,
            late=f"peer {peer} did not answer within {timeout_s:g} s",
            closed=f"peer {peer} had not answered when this node's transport was closed",
        )

    async def _ask(self, peer: PeerAddress, message: bytes, timeout_s: float, max_reply_bytes: int) -> bytes:
        link = self._pool.newest(peer.id)
        if link is not None:
            try:
                return await _ask_while_heard(link, peer, message, max_reply_bytes, timeout_s)
            except (_Stale, *FOREIGN_ERRORS) as error:
                if link.is_open and not isinstance(error, _Stale):
                    raise PeerUnreachable(f"peer {peer} broke off its answer") from error
                self._give_up(link)
        link = self._pool.newest(peer.id) or await self._pool.dial(peer, min(self._dial_timeout_s, timeout_s))
        try:
            return await _ask_while_heard(link, peer, message, max_reply_bytes, timeout_s)
        except _Stale:
            self._give_up(link)
            raise PeerUnreachable(f"peer {peer} fell silent") from None
        except FOREIGN_ERRORS as error:
            raise PeerUnreachable(f"peer {peer} broke off the connection") from error

    def _give_up(self, link: Link) -> None:
        """This link is dead. So are the older ones of its peer, but not one that was opened since."""
        if self._pool.newest(link.peer_id) in (link, None):
            self._pool.remove_peer(link.peer_id, b"stale")
        else:
            self._pool.remove(link, b"stale")

    def _serve(self, link: Link) -> None:
        if self._closed:
            link.close(b"closed")
            return
        self._pool.add(link)
        self._spawn(self._serve_until_closed(link))

    async def _serve_until_closed(self, link: Link) -> None:
        assert self._desk is not None
        try:
            await link.serve(self._desk)
        finally:
            self._pool.remove(link, b"closed")

    async def _accept(self) -> None:
        while (incoming := await self._endpoint.accept_next()) is not None:
            if len(self._pool) + self._num_handshakes >= self._limits.max_connections:
                self._num_refused += 1
                with suppress(*FOREIGN_ERRORS):
                    await incoming.refuse()
            else:
                self._num_handshakes += 1
                self._spawn(self._welcome(incoming))

    async def _welcome(self, incoming: Any) -> None:
        try:
            self._serve(await handshake(incoming, self._limits, self._dial_timeout_s))
        except (TimeoutError, *FOREIGN_ERRORS):
            self._num_refused += 1
        finally:
            self._num_handshakes -= 1

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._limits.idle_timeout_s / 4)
            for link in self._pool.all():
                if link.idle_s() >= self._limits.idle_timeout_s:
                    self._pool.remove(link, b"idle")

    def statistics(self) -> TransportStatistics:
        """Wire bytes are the endpoint's own UDP counters, or the sum over its connections once that is larger:
        the former also know refused and failed handshakes, but stop at 4 GiB."""
        counts = [self._wire_bytes, self._pool.wire_bytes()]
        if self._endpoint is not None:
            of = self._endpoint.stats()
            counts.append((_sum(of, "send_ipv4", "send_ipv6", "send_relay"), _sum(of, *_RECEIVED)))
        self._wire_bytes = sent, received = max(c[0] for c in counts), max(c[1] for c in counts)
        return TransportStatistics(
            num_connections=len(self._pool),
            num_connections_opened=self._pool.num_opened,
            num_connections_refused=self._num_refused,
            num_requests_open=self._desk.num_open if self._desk else 0,
            wire_sent_bytes=sent,
            wire_received_bytes=received,
        )

    async def close(self) -> None:
        if self._closed or self._endpoint is None:
            self._closed = True
            return
        self._closed = True
        await self._requests.close()
        self._pool.close()
        # Peers are told at once; what iroh would wait for beyond that is only attempts to dial the dead.
        with suppress(TimeoutError, *FOREIGN_ERRORS):
            await asyncio.wait_for(self._endpoint.close(), CLOSE_WAIT_S)
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Stale(Exception):
    """Nothing is heard on this connection."""


async def _ask_while_heard(
    link: Link, peer: PeerAddress, message: bytes, max_reply_bytes: int, timeout_s: float
) -> bytes:
    """The reply, or ``_Stale`` as soon as nothing at all came from the peer for a while, however late that is."""
    round_trip_s = link.round_trip_s()
    wait_s = max(2 * round_trip_s, min(max(STALE_AFTER_S, 4 * round_trip_s), timeout_s / 3))
    sent: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(link.ask(peer, message, max_reply_bytes, sent))
    either: set[asyncio.Future[Any]] = {task, sent}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        heard = sent.result() if sent.done() else 0
        while not (await asyncio.wait({task}, timeout=wait_s))[0]:
            if link.num_heard() == heard:
                raise _Stale
            heard = link.num_heard()
            link.poke()
        return task.result()
    finally:
        task.cancel()


def _relay(url: str | None) -> tuple[Any, str | None]:
    """(iroh's setting, the URL as iroh spells it): peers tell each other that spelling, so they can compare it."""
    if url is None:
        return RelayMode.disabled(), None
    try:
        mode = RelayMode.custom_from_urls([url])
        (spelled,) = mode.relay_map().urls()
    except FOREIGN_ERRORS as error:
        raise ValueError(f"relay_url is a URL such as https://relay.example.org, got {url!r}") from error
    return mode, str(spelled)


def _host(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))


def _sockets(bind: str) -> list[list[str]]:
    """What to bind, best first: the given port before any, with IPv6 beside IPv4 before without."""
    host, _, port = bind.rpartition(":")
    try:
        ip, number = _host(bind), int(port)
    except ValueError:
        raise ValueError(f"bind is ip:port such as 127.0.0.1:0, got {bind!r}") from None
    hosts = [f"{host}:{number}"] + ([f"{host}:0"] if number else [])
    beside = ("127.0.0.1:0" if ip.is_loopback else "0.0.0.0:0") if ip.version == 6 else "[::1]:0"
    if ip.version == 4 and not ip.is_loopback:
        return [[first] for first in hosts]
    return [sockets for first in hosts for sockets in ([first, beside], [first])]


def _sum(counters: Any, *names: str) -> int:
    values = [counters[f"socket:{name}"].value for name in names if f"socket:{name}" in counters]
    return 0 if _COUNTER_END in values else sum(values)
