"""Asking one peer one thing: encode, send, decode, and check that the answer is of the kind that was asked for."""

from __future__ import annotations

from typing import TypeVar

from spikemesh.codec import (
    MAX_PART_BYTES,
    GenesisReply,
    GetGenesis,
    Hello,
    Message,
    Refused,
    Welcome,
    decode_genesis,
    decode_message,
    encode_message,
    run_id,
)
from spikemesh.crdt import Genesis
from spikemesh.errors import BlobGone, InvalidData, PeerRefused
from spikemesh.node.peers import address_of
from spikemesh.transport import PeerAddress, Transport

Reply = TypeVar("Reply")

MISSING = "missing"
"""The reason in a `Refused` for a blob that is not there."""

REQUEST_TIMEOUT_S = 10.0
SLOWEST_BYTES_PER_S = 64 * 1024
"""A line of half a megabit per second still gets its blob parts; a lost small one is asked for again soon."""
MAX_REPLY_BYTES = MAX_PART_BYTES + 64 * 1024


async def ask(
    transport: Transport,
    peer: PeerAddress,
    message: Message,
    expected: type[Reply],
    timeout_s: float = REQUEST_TIMEOUT_S,
) -> Reply:
    """The peer's reply. `PeerUnreachable` without one, `PeerRefused` if it says no, `InvalidData` if it is another."""
    data = await transport.request(peer, encode_message(message), timeout_s=timeout_s, max_reply_bytes=MAX_REPLY_BYTES)
    reply = decode_message(data)
    if isinstance(reply, Refused) and reply.reason == MISSING:
        raise BlobGone(f"peer {peer} refused: {reply.text}")
    if isinstance(reply, Refused):
        raise PeerRefused(f"peer {peer} refused: {reply.text}", reply.reason)
    if not isinstance(reply, expected):
        raise InvalidData(f"peer {peer} answered with {type(reply).__name__}, expected {expected.__name__}")
    return reply


async def greet(
    transport: Transport, peer: PeerAddress, hello: Hello, timeout_s: float = REQUEST_TIMEOUT_S
) -> tuple[PeerAddress, ...]:
    """Say who and where we are. Who else takes part, as far as the peer tells."""
    welcome = await ask(transport, peer, hello, Welcome, timeout_s)
    return tuple(map(address_of, welcome.peers))


async def fetch_genesis(transport: Transport, peer: PeerAddress, wanted_run_id: bytes) -> Genesis:
    """The genesis of a run, from any peer: its hash is the run's name, so nobody has to be believed."""
    reply = await ask(transport, peer, GetGenesis(run_id=wanted_run_id), GenesisReply)
    genesis = decode_genesis(reply.data)
    if run_id(genesis) != wanted_run_id:
        raise InvalidData(f"peer {peer} sent the genesis of another run than {wanted_run_id.hex()[:8]}")
    return genesis
