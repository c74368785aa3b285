"""What a newcomer gets before it has a node: the run's start, from several peers, over real sockets, once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from spikemesh.cli.folder import RunFolder
from spikemesh.cli.session import Contact, open_session
from spikemesh.codec import (
    PART_BYTES,
    BlobPart,
    GenesisReply,
    GetBlob,
    GetGenesis,
    GetParts,
    Hello,
    Parts,
    Welcome,
    decode_message,
    encode_genesis,
    encode_message,
    run_id,
    write_tensors,
)
from spikemesh.crdt import Genesis, TensorSpec
from spikemesh.errors import PeerUnreachable
from spikemesh.node import info_of
from spikemesh.sim.run import identity
from spikemesh.store import Store
from spikemesh.transport import PeerAddress
from spikemesh.transport.p2p import P2PTransport

NUM_COORDINATES = 1_300_000
THETA0 = np.random.default_rng(3).standard_normal(NUM_COORDINATES, np.float32)
START = write_tensors({"theta0": THETA0})
NUM_PARTS = -(-len(START) // PART_BYTES)
GENESIS = Genesis(
    name="large",
    founder=identity(1).id,
    model={},
    recipe={},
    tensors=(TensorSpec("w", (NUM_COORDINATES,), NUM_COORDINATES, False),),
    init_hash=blake3(START).digest(),
    init_bytes=len(START),
)


class Peer:
    """Holds the run, knows `others`, and sends the parts of the start that `sends` lets it."""

    def __init__(self, number: int, others: tuple[PeerAddress, ...], sends: Callable[[int], bool]) -> None:
        self.transport = P2PTransport(secret_key=identity(number).secret, bind="127.0.0.1:0")
        self.others, self.sends = others, sends
        self.sent: list[int] = []

    async def __call__(self, _peer: bytes, request: bytes) -> bytes:
        match decode_message(request):
            case GetGenesis():
                return encode_message(GenesisReply(data=encode_genesis(GENESIS)))
            case Hello():
                return encode_message(Welcome(peers=tuple(map(info_of, self.others))))
            case GetParts():
                parts = (START[n : n + PART_BYTES] for n in range(0, len(START), PART_BYTES))
                hashes = tuple(blake3(part).digest() for part in parts)
                return encode_message(Parts(total_bytes=len(START), hashes=hashes))
            case GetBlob(offset=offset, length=length) if self.sends(offset // PART_BYTES):
                self.sent.append(offset // PART_BYTES)
                return encode_message(BlobPart(data=START[offset : offset + length], total_bytes=len(START)))
        raise RuntimeError("no more")


async def join(folder: Path, contact: PeerAddress) -> None:
    wanted: Contact = run_id(GENESIS), contact
    async with open_session(RunFolder(folder), contact=wanted, bind="127.0.0.1:0") as session:
        assert session.start["theta0"].tobytes() == THETA0.tobytes()


def num_pieces(folder: Path) -> int:
    with Store.open(folder, create=False) as store:
        return len([*store.pieces.hashes()])


def test_an_interrupted_download_of_the_start_goes_on_from_whoever_has_it(tmp_path: Path) -> None:
    async def story() -> None:
        contact = Peer(1, (), lambda number: number < 3)
        await contact.transport.start(contact)
        other = Peer(2, (), lambda _: True)
        await other.transport.start(other)
        try:
            with pytest.raises(PeerUnreachable, match="none of 1 peers delivered"):
                await join(tmp_path, contact.transport.address)
            assert num_pieces(tmp_path) == len(contact.sent) == 3
            contact.others, contact.sends = (other.transport.address,), lambda _: False
            await join(tmp_path, contact.transport.address)
            assert sorted(contact.sent + other.sent) == list(range(NUM_PARTS))
            assert num_pieces(tmp_path) == 0
            await join(tmp_path, contact.transport.address)  # it is here now
            assert len(contact.sent + other.sent) == NUM_PARTS
        finally:
            await contact.transport.close()
            await other.transport.close()

    asyncio.run(story())
