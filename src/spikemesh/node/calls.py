"""Asking one peer one thing: encode, send, decode, and check that the answer is of the kind that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from blake3 import blake3

from spikemesh.codec import (
    MAX_PART_BYTES,
    BlobPart,
    GenesisReply,
    GetBlob,
    GetGenesis,
    Message,
    Refused,
    decode_genesis,
    decode_message,
    encode_message,
    run_id,
)
from spikemesh.crdt import Genesis
from spikemesh.errors import InvalidData, PeerRefused, PeerUnreachable, SpikemeshError
from spikemesh.transport import PeerAddress, Transport

Reply = TypeVar("Reply")

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
    if isinstance(reply, Refused):
        raise PeerRefused(f"peer {peer} refused: {reply.text}", reply.reason)
    if not isinstance(reply, expected):
        raise InvalidData(f"peer {peer} answered with {type(reply).__name__}, expected {expected.__name__}")
    return reply


async def fetch_genesis(transport: Transport, peer: PeerAddress, wanted_run_id: bytes) -> Genesis:
    """The genesis of a run, from any peer: its hash is the run's name, so nobody has to be believed."""
    reply = await ask(transport, peer, GetGenesis(run_id=wanted_run_id), GenesisReply)
    genesis = decode_genesis(reply.data)
    if run_id(genesis) != wanted_run_id:
        raise InvalidData(f"peer {peer} sent the genesis of another run than {wanted_run_id.hex()[:8]}")
    return genesis


async def fetch_blob(transport: Transport, sources: Sequence[PeerAddress], digest: bytes, num_bytes: int) -> bytes:
    """A blob of exactly `num_bytes` by its BLAKE3, in parts, from the first of `sources` that can deliver it."""
    reason: SpikemeshError | None = None
    for peer in sources:
        try:
            return await _fetch_from(transport, peer, digest, num_bytes)
        except (PeerUnreachable, InvalidData) as error:
            reason = error
    raise PeerUnreachable(
        f"none of {len(sources)} peers delivered blob {digest.hex()[:8]} ({num_bytes} bytes): {reason}"
    )


async def _fetch_from(transport: Transport, peer: PeerAddress, digest: bytes, num_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < num_bytes:
        wanted = min(MAX_PART_BYTES, num_bytes - len(data))
        message = GetBlob(hash=digest, offset=len(data), length=wanted)
        part = await ask(transport, peer, message, BlobPart, REQUEST_TIMEOUT_S + wanted / SLOWEST_BYTES_PER_S)
        if part.total_bytes != num_bytes or len(part.data) != wanted:
            raise InvalidData(
                f"peer {peer} sent {len(part.data)} of {part.total_bytes} bytes, expected {wanted} of {num_bytes}"
            )
        data += part.data
    if blake3(data).digest() != digest:
        raise InvalidData(f"the blob that peer {peer} sent does not have the hash {digest.hex()[:8]}")
    return bytes(data)
