"""A peer that accepts everything and never answers: `silent_peer.py BIND RUN_ID [TICKET]`.

It takes connections, streams and requests as a real node does, and that is all. With a ticket it greets that node
first, so that it is known to the swarm. It prints its own ticket.
"""

from __future__ import annotations

import asyncio
import sys

from spikemesh.codec import Hello, PeerInfo, Welcome, decode_ticket, encode_ticket
from spikemesh.node import address_of
from spikemesh.node.calls import ask
from spikemesh.transport import Limits
from spikemesh.transport.p2p import P2PTransport


async def never(_peer: bytes, _request: bytes) -> bytes:
    await asyncio.Event().wait()
    return b""


async def main(bind: str, run_id: bytes, ticket: str | None) -> None:
    transport = P2PTransport(secret_key=b"silent".ljust(32, b"."), bind=bind, limits=Limits(answer_timeout_s=1e9))
    await transport.start(never)
    own = transport.address
    if ticket is not None:
        hello = Hello(run_id=run_id, address=PeerInfo(id=own.id, addresses=own.addresses, relay_url=None))
        await ask(transport, address_of(decode_ticket(ticket)[1]), hello, Welcome)
    print(encode_ticket(run_id, own), flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], bytes.fromhex(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None))
