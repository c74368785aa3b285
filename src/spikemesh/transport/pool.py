"""The connections a node holds, at most a few per peer, and the dials that are under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from spikemesh.errors import PeerUnreachable
from spikemesh.transport.base import Limits, PeerAddress
from spikemesh.transport.binding import FOREIGN_ERRORS
from spikemesh.transport.inflight import look
from spikemesh.transport.link import Link, endpoint_address

ALPN = b"spikemesh/1"
NO_COMMON_PROTOCOL = "peer doesn't support any known protocol"
OTHER_VERSION = "speaks another version of spikemesh's protocol"


class Dial:
    """A connection attempt that several requests may wait for; it ends with the last of them."""

    def __init__(self, task: asyncio.Task[Link]) -> None:
        self._task = task
        self._num_waiting = 0
        task.add_done_callback(look)

    async def link(self, peer: PeerAddress) -> Link:
        self._num_waiting += 1
        try:
            await asyncio.wait({self._task})
        finally:
            self._num_waiting -= 1
            if not self._num_waiting:
                self._task.cancel()
        if self._task.cancelled():
            raise PeerUnreachable(f"peer {peer} was being dialled when this node's transport was closed")
        return self._task.result()

    def cancel(self) -> None:
        self._task.cancel()


class Pool:
    """Open links by peer, the newest last: after a peer restarts, its newest connection is the live one."""

    def __init__(self, limits: Limits, welcome: Callable[[Link], None], *, relay_url: str | None = None) -> None:
        self.endpoint: Any = None
        self._relay_url = relay_url
        self._limits = limits
        self._welcome = welcome
        self._links: dict[bytes, list[Link]] = {}
        self._dials: dict[bytes, Dial] = {}
        self._gone_sent_bytes = 0
        self._gone_received_bytes = 0
        self.num_opened = 0

    def __len__(self) -> int:
        return sum(len(links) for links in self._links.values())

    def all(self) -> list[Link]:
        return [link for links in self._links.values() for link in links]

    def newest(self, peer_id: bytes) -> Link | None:
        """The link to use for this peer, whoever opened it."""
        return next((link for link in reversed(self._links.get(peer_id, [])) if link.is_open), None)

    def add(self, link: Link) -> None:
        """Takes the link in; a peer that holds too many loses its oldest, which is dead or the peer's own excess."""
        links = self._links.setdefault(link.peer_id, [])
        links.append(link)
        self.num_opened += 1
        for old in links[: -self._limits.max_connections_per_peer]:
            self.remove(old, b"too many connections")

    def remove(self, link: Link, reason: bytes) -> None:
        """Closes the link and keeps its byte counts. Nothing happens when it is not here."""
        links = self._links.get(link.peer_id, [])
        if link not in links:
            return
        links.remove(link)
        if not links:
            del self._links[link.peer_id]
        link.close(reason)
        sent, received = link.wire_bytes()
        self._gone_sent_bytes += sent
        self._gone_received_bytes += received

    def remove_peer(self, peer_id: bytes, reason: bytes) -> None:
        """Closes all links of a peer. iroh dials a new address of a known peer only when no connection of the old
        one is open: with a dead one still open it tries the dead address for 30 s."""
        for link in [*self._links.get(peer_id, [])]:
            self.remove(link, reason)

    def wire_bytes(self) -> tuple[int, int]:
        """UDP payload sent and received on all links that are or were here."""
        counts = [link.wire_bytes() for link in self.all()]
        return (
            self._gone_sent_bytes + sum(sent for sent, _ in counts),
            self._gone_received_bytes + sum(received for _, received in counts),
        )

    async def dial(self, peer: PeerAddress, timeout_s: float) -> Link:
        """A fresh link that was handed to ``welcome``. Raises ``PeerUnreachable`` after ``timeout_s`` at the latest."""
        dial = self._dials.get(peer.id)
        if dial is None:
            task = asyncio.ensure_future(self._connect(peer, timeout_s))
            dial = self._dials[peer.id] = Dial(task)
            task.add_done_callback(lambda _: self._dials.pop(peer.id, None))
        return await dial.link(peer)

    async def _connect(self, peer: PeerAddress, timeout_s: float) -> Link:
        try:
            async with asyncio.timeout(timeout_s):
                link = Link(await self.endpoint.connect(endpoint_address(peer, self._relay_url), ALPN), self._limits)
            self._welcome(link)
            return link
        except TimeoutError:
            raise PeerUnreachable(f"peer {peer} did not take a connection within {timeout_s:g} s") from None
        except FOREIGN_ERRORS as error:
            if NO_COMMON_PROTOCOL in repr(error):
                raise PeerUnreachable(f"peer {peer} {OTHER_VERSION}; install the one that the run uses") from error
            raise PeerUnreachable(f"peer {peer} cannot be connected to: check its id and address") from error

    def close(self) -> None:
        for dial in [*self._dials.values()]:
            dial.cancel()
        for link in self.all():
            self.remove(link, b"closed")
