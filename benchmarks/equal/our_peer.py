"""One of our nodes, without a trainer: publishes a delta when it is told to, and says what it holds.

python our_peer.py FOLDER SEED [TICKET]
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
from blake3 import blake3

from spikemesh.cli.folder import RunFolder
from spikemesh.cli.session import Session, enter_run, open_session
from spikemesh.codec import TOP_K, QuantisedDelta, decode_ticket, encode_delta, quantise, select_top_k, sign_record
from spikemesh.crdt import Contribution
from spikemesh.node.peers import address_of

DENSITY = 0.25
WEIGHT = 512


def drawn_delta(num_coordinates: int, grid_exponent: int, seed: int, number: int, density: float = DENSITY) -> bytes:
    """A delta as an author makes it of a round's progress: its largest part, a quarter, in 4 bits."""
    progress = np.random.default_rng([seed, number]).standard_normal(num_coordinates, np.float32) * np.float32(1e-3)
    indices = select_top_k(progress, density)
    codes, scales = quantise(progress[indices], TOP_K, grid_exponent)
    return encode_delta(QuantisedDelta(num_coordinates, indices, codes, scales, TOP_K))


async def publish(session: Session, seed: int, number: int) -> None:
    ledger = session.node.ledger
    delta = await asyncio.to_thread(drawn_delta, ledger.num_coordinates, ledger.genesis.grid_exponent, seed, number)
    contribution = Contribution(
        run_id=ledger.run_id,
        author=session.node.id,
        seq=ledger.next_seq(session.node.id),
        past=(),
        weight=WEIGHT,
        delta_hash=blake3(delta).digest(),
        delta_bytes=len(delta),
        num_tokens=1,
    )
    record = sign_record(contribution, session.identity.private_key)
    await session.node.publish(record, {contribution.delta_hash: delta})


def holdings(session: Session) -> dict[str, object]:
    replica = session.node.ledger.replica
    context = replica.records.context
    seen = session.statistics(None)
    return {
        "received_bytes": seen.received_bytes,
        "peak_rss_bytes": seen.peak_rss_bytes,
        "from_snapshot": seen.started_from_snapshot,
        "deltas_fetched": seen.num_deltas_fetched,
        "digest": replica.sum.digest.hex(),
        "rounds": {author.hex(): context.last(author) for author in context.authors()},
    }


async def serve(folder: Path, seed: int, ticket: str | None) -> None:
    contact = None
    if ticket is not None:
        told = decode_ticket(ticket)
        contact = told.run_id, address_of(told.peer)
    async with (
        open_session(RunFolder(folder), contact=contact, bind="127.0.0.1:0") as session,
        asyncio.TaskGroup() as group,
    ):
        running = group.create_task(session.node.run())
        await enter_run(session, contact)
        say({"id": session.node.id.hex(), "ticket": session.ticket})
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            if asked["do"] == "publish":
                await publish(session, seed, asked["number"])
                say({})
            elif asked["do"] == "look":
                say(holdings(session))
            elif asked["do"] == "resolve":
                ledger = session.node.ledger
                theta = await asyncio.to_thread(ledger.resolve, ledger.replica)
                say({"sample": [float(value) for value in theta[:: max(1, len(theta) // 64)]]})
        running.cancel()


def say(answer: dict[str, object]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None))
