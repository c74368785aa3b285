"""A thousand nodes are given the same records, each in an order of its own, in batches of any size, with repeats."""

from __future__ import annotations

import random

from blake3 import blake3

from spikemesh.crdt import Record
from spikemesh.node import Ledger
from spikemesh.sim.disk import MemoryStore
from spikemesh.sim.run import GENESIS, RUN_ID, THETA0, contribution, make_delta, retraction

NUM_NODES = 1000


def everything() -> tuple[list[Record], dict[bytes, bytes]]:
    """Contributions, retractions of some, and an equivocation; and the deltas by hash."""
    pairs = [contribution(author, seq) for author in range(1, 6) for seq in (1, 2, 3)]
    pairs.append(contribution(2, 3, delta=make_delta(99)))
    records = [record for record, _ in pairs]
    records += [retraction(1, 4, records[0], records[1]), retraction(0, 1, records[4])]
    return records, {blake3(delta).digest(): delta for _, delta in pairs}


def test_a_thousand_orders_give_one_digest() -> None:
    records, deltas = everything()
    digests = set()
    for seed in range(NUM_NODES):
        rng, ledger = random.Random(seed), Ledger.open(MemoryStore(), GENESIS, RUN_ID, THETA0)
        left = rng.sample(records, len(records)) + rng.sample(records, 3)
        while left:
            size = rng.randrange(1, 6)
            batch, left = left[:size], left[size:]
            ledger.insert(batch, deltas)
        digests.add((ledger.replica.records.digest, ledger.replica.sum.digest))
    assert len(digests) == 1
    assert len(ledger.replica.records.visible) == 11
