"""A peer in a process of its own, to be killed: ``echo_peer.py KEY_HEX PORT`` prints its id and addresses."""

from __future__ import annotations

import asyncio
import sys

from spikemesh.transport.p2p import P2PTransport


async def echo(_peer: bytes, request: bytes) -> bytes:
    if request == b"hang":
        await asyncio.Event().wait()
    return request


async def main() -> None:
    transport = P2PTransport(secret_key=bytes.fromhex(sys.argv[1]), bind=f"127.0.0.1:{sys.argv[2]}")
    await transport.start(echo)
    sys.stdout.write(" ".join([transport.address.id.hex(), *transport.address.addresses]) + "\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await transport.close()


asyncio.run(main())
