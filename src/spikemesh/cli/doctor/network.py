"""Checks of the network: is there a socket, can packets leave, which peers and buckets answer, can others dial here,
does the relay take this node in.

It asks with a key of its own and says no hello, so no peer remembers it, and a node that runs in the same folder is
not disturbed.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import secrets
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spikemesh.cli.doctor.finding import Finding, note, ok, wrong
from spikemesh.codec import GenesisReply, GetGenesis
from spikemesh.errors import InvalidData, PeerRefused, PeerUnreachable, TransportError
from spikemesh.node.calls import ask
from spikemesh.transport import PeerAddress, Transport
from spikemesh.transport.pool import OTHER_VERSION

ANSWER_TIMEOUT_S = 8.0
RELAY_TIMEOUT_S = 8.0
"""iroh first measures for 3 s where it is, if the relay answers no QUIC."""

MAX_ASKED = 16
FORBIDDEN = frozenset((errno.EPERM, errno.EACCES))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Whom a node would ask, and its relay: a newcomer needs one of them, somebody who has the run goes on alone."""

    run_id: bytes | None
    peers: Sequence[PeerAddress] = ()
    buckets: Sequence[str] = ()
    relay_url: str | None = None
    may_go_alone: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of asking one peer or bucket; `problem` is None if it takes part in the run."""

    who: str
    problem: str | None


async def look(bind: str, asked: Asked) -> list[Finding]:
    from spikemesh.transport.p2p import P2PTransport

    findings = [socket_finding(bind)]
    if findings[0].state == "wrong":
        return findings
    host = bind.rpartition(":")[0]
    transport = P2PTransport(secret_key=secrets.token_bytes(32), bind=f"{host}:0", relay_url=asked.relay_url)

    async def refuse(_peer: bytes, _request: bytes) -> bytes:
        raise InvalidData("a doctor answers nobody")

    try:
        await transport.start(refuse)
        findings.append(nat_finding(address.rpartition(":")[0] for address in transport.address.addresses))
        if asked.relay_url is not None:
            is_relayed = await transport.is_relayed(timeout_s=RELAY_TIMEOUT_S)
            findings.append(relay_finding(asked.relay_url, is_relayed=is_relayed))
        if asked.run_id is not None:
            answers = await asyncio.gather(
                *(_ask(transport, peer, asked.run_id) for peer in asked.peers[:MAX_ASKED]),
                *(_ask_bucket(url, asked.run_id) for url in asked.buckets),
            )
            findings += peer_findings(answers, may_go_alone=asked.may_go_alone)
    except TransportError as error:
        findings.append(wrong("socket", error))
    finally:
        await transport.close()
    return findings


def socket_finding(bind: str) -> Finding:
    """Whether UDP can be bound where the node wants to listen."""
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return note(
                    "socket",
                    f"UDP port {port} is in use, by this node or another program",
                    "If no node of yours runs, another port is taken and tickets given out before do not reach you.",
                )
            return wrong(
                "socket",
                TransportError(f"UDP cannot be bound at {bind} ({error.strerror})"),
                "Name an address of this machine in --bind, such as 0.0.0.0:0, and a port above 1023.",
            )
    return ok("socket", f"UDP can be bound at {bind}")


def nat_finding(hosts: Iterable[str]) -> Finding:
    """Whether others could dial this machine, judged by its own addresses."""
    own = sorted({ipaddress.ip_address(host.strip("[]")) for host in hosts}, key=str)
    shown = ", ".join(map(str, own)) or "none"
    if any(address.is_global for address in own):
        return ok("reachable", f"it has a public address ({shown}); others can dial it unless a firewall forbids it")
    if all(address.is_loopback or address.is_link_local for address in own):
        return note(
            "reachable",
            f"it has no address that another machine could use ({shown})",
            "Connect it to a network and do not --bind to 127.0.0.1, unless all peers are on this machine.",
        )
    return note(
        "reachable",
        f"behind NAT: its addresses are private ({shown}), so others elsewhere cannot dial it",
        "Nothing, as long as one peer that it can dial answers: everything travels on the connection that it opens.",
    )


def relay_finding(url: str, *, is_relayed: bool) -> Finding:
    if is_relayed:
        return ok("relay", f"{url} takes this node in; whoever uses it too can be reached through it")
    return note(
        "relay",
        f"{url} did not take this node in within {RELAY_TIMEOUT_S:g} s",
        "Check that a relay runs there and that this machine may open HTTP connections to it, or name another with "
        "`spikemesh join --relay`. It is not needed where one peer or bucket below answers without it.",
    )


async def _ask(transport: Transport, peer: PeerAddress, run_id: bytes) -> Answer:
    who = f"peer {peer.id.hex()[:8]}"
    try:
        await ask(transport, peer, GetGenesis(run_id=run_id), GenesisReply, ANSWER_TIMEOUT_S)
    except PeerRefused as error:
        return Answer(who=who, problem=None if error.reason == "starting" else str(error))
    except InvalidData as error:
        return Answer(who=who, problem=f"it speaks another version: {error}")
    except PeerUnreachable as error:
        other_version = OTHER_VERSION in str(error)
        return Answer(who=who, problem=f"it {OTHER_VERSION}" if other_version else _why_silent(peer, transport))
    return Answer(who=who, problem=None)


async def _ask_bucket(url: str, run_id: bytes) -> Answer:
    from spikemesh.cli.session import open_bucket

    try:
        await open_bucket(url, run_id).genesis(run_id)
    except (TransportError, InvalidData) as error:
        return Answer(who=f"bucket {url}", problem=str(error))
    return Answer(who=f"bucket {url}", problem=None)


def _why_silent(peer: PeerAddress, transport: Transport) -> str:
    """As much as can be known from here about a peer that does not answer."""
    reasons = {reason for address in peer.addresses if (reason := _cannot_send(address)) is not None}
    if peer.addresses and len(reasons) == 1 and all(map(_cannot_send, peer.addresses)):
        return reasons.pop()
    if peer.relay_url is not None and peer.relay_url == transport.address.relay_url:
        return "no answer, neither at its addresses nor through the relay: it is not running, or it has moved"
    hosts = [ipaddress.ip_address(address.rpartition(":")[0].strip("[]")) for address in peer.addresses]
    if hosts and all(host.is_loopback for host in hosts):
        return "it can only be reached on the machine that it runs on"
    if hosts and all(host.is_private for host in hosts):
        return "no answer; its addresses are private, so it can only be reached inside its own network"
    return "no answer: it is not running, a firewall drops UDP on the way, or it has another address now"


def _cannot_send(address: str) -> str | None:
    """Why this machine itself cannot send a packet there; None if it can."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.sendto(b"", (host, int(port)))
    except OSError as error:
        if error.errno in FORBIDDEN:
            return "a firewall on this machine forbids UDP there"
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN):
            return "this machine has no route there: it is not connected to that network"
        return f"this machine cannot send there ({error.strerror})"
    return None


def peer_findings(answers: Sequence[Answer], *, may_go_alone: bool) -> list[Finding]:
    """A line for each peer and bucket, and one for all: with one that answers, the node can take part."""
    num_reached = sum(answer.problem is None for answer in answers)
    lines = [
        ok(answer.who, "answers and takes part in the run")
        if answer.problem is None
        else note(answer.who, answer.problem, "")
        for answer in answers
    ]
    if not answers:
        return [note("peers", "none is known yet", "Give others your ticket, or join with one of theirs.")]
    if num_reached:
        return [*lines, ok("peers", f"{num_reached} of {len(answers)} answer")]
    advice = "Ask somebody in the run for a fresh ticket of a running node, and allow UDP in firewalls."
    if any(OTHER_VERSION in str(answer.problem) for answer in answers):
        advice = "Install the version of spikemesh that the run uses."
    nobody = f"none of {len(answers)} known peers and buckets can be used"
    if may_go_alone:
        return [*lines, note("peers", f"{nobody}; a join goes on alone and listens", advice)]
    return [*lines, wrong("peers", PeerUnreachable(nobody), advice)]
