"""A small run to simulate: volunteers by number, and contributions that nobody had to train."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from blake3 import blake3

from spikemesh.codec import (
    TOP_K,
    QuantisedDelta,
    bounded_past,
    encode_delta,
    quantise,
    run_id,
    select_top_k,
    sign_record,
)
from spikemesh.crdt import CausalContext, Contribution, Genesis, Record, Retraction, TensorSpec
from spikemesh.node import Identity

NUM_COORDINATES = 300
THETA0 = np.linspace(-1, 1, NUM_COORDINATES, dtype=np.float32)


def identity(number: int) -> Identity:
    return Identity(blake3(b"volunteer %d" % number).digest())


@lru_cache(maxsize=65_536)
def peer_id(number: int) -> bytes:
    """The public key of a volunteer; asked for more often than it is worth computing."""
    return identity(number).id


GENESIS = Genesis(
    name="simulated",
    founder=peer_id(0),
    model={},
    recipe={},
    tensors=(TensorSpec("w", (NUM_COORDINATES,), NUM_COORDINATES, False),),
    init_hash=bytes(32),
    init_bytes=1,
)
RUN_ID = run_id(GENESIS)


def make_delta(seed: int) -> bytes:
    values = np.random.default_rng(seed).standard_normal(NUM_COORDINATES).astype(np.float32) * 0.01
    indices = select_top_k(values, 0.25)
    codes, scales = quantise(values[indices], TOP_K, GENESIS.grid_exponent)
    return encode_delta(QuantisedDelta(NUM_COORDINATES, indices, codes, scales, TOP_K))


def contribution(
    author: int, seq: int, *, delta: bytes | None = None, weight: int = 1024, seen: CausalContext | None = None
) -> tuple[Record, bytes]:
    """A signed record of volunteer `author`, who had seen `seen`, and the delta it names."""
    data = make_delta(author * 1000 + seq) if delta is None else delta
    body = Contribution(
        run_id=RUN_ID,
        author=peer_id(author),
        seq=seq,
        past=bounded_past(seen, peer_id(author)) if seen is not None else (),
        weight=weight,
        delta_hash=blake3(data).digest(),
        delta_bytes=len(data),
        num_tokens=1,
    )
    return sign_record(body, identity(author).private_key), data


def retraction(author: int, seq: int, *targets: Record) -> Record:
    body = Retraction(
        run_id=RUN_ID,
        author=peer_id(author),
        seq=seq,
        past=(),
        targets=tuple(sorted(record.id for record in targets)),
    )
    return sign_record(body, identity(author).private_key)
