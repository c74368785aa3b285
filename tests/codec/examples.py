"""Fixed values whose bytes are committed, and random ones for the properties."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spikemesh.codec import TOP_K, Hello, PeerInfo, QuantisedDelta, Table, run_id, sign_record
from spikemesh.crdt import (
    CHUNK_COORDINATES,
    Branch,
    Contribution,
    Genesis,
    LogSummary,
    PastEntry,
    Record,
    Retraction,
    SyncMessage,
    TensorSpec,
)
from spikemesh.kernels.delta.codes import MAX_SCALE, num_blocks

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
AUTHOR = KEY.public_key().public_bytes_raw()

DELTA = QuantisedDelta(
    num_coordinates=40,
    indices=np.array([2, 3, 11, 30, 39]),
    codes=np.array([0, 15, 7, 8, 10], np.uint8),
    scales=np.array([(3 << 3) | 5], np.uint8),
    table=TOP_K,
)

GENESIS = Genesis(
    name="example",
    founder=AUTHOR,
    model={"width": 64, "leak": 0.5, "hard_reset": True, "neuron": "lif"},
    recipe={"lr": 0.001},
    tensors=(TensorSpec("a.weight", (8, 8), 32, True), TensorSpec("b.bias", (8,), 8, False)),
    init_hash=bytes(32),
    init_bytes=1000,
)
RUN = run_id(GENESIS)


def contribution(**changes: object) -> Contribution:
    fields: dict[str, object] = {
        "run_id": RUN,
        "author": AUTHOR,
        "seq": 3,
        "past": tuple(sorted((PastEntry(AUTHOR, 2), PastEntry(b"\x01" * 32, 7, (9, 12))), key=lambda e: e.author)),
        "weight": 1024,
        "delta_hash": b"\x02" * 32,
        "delta_bytes": 350,
        "num_tokens": 20_480,
    }
    return Contribution(**{**fields, **changes})  # type: ignore[arg-type]


def retraction(**changes: object) -> Retraction:
    fields: dict[str, object] = {
        "run_id": RUN,
        "author": AUTHOR,
        "seq": 4,
        "past": (PastEntry(AUTHOR, 3),),
        "targets": (b"\x03" * 32, b"\x04" * 32),
    }
    return Retraction(**{**fields, **changes})  # type: ignore[arg-type]


CONTRIBUTION: Record = sign_record(contribution(), KEY)
RETRACTION: Record = sign_record(retraction(), KEY)


def random_delta(
    rng: np.random.Generator, num_coordinates: int, density: float, table: Table = TOP_K
) -> QuantisedDelta:
    """Uniformly random positions, codes and scales."""
    indices = np.flatnonzero(rng.random(num_coordinates) < density)
    return delta_at(rng, num_coordinates, indices, table)


def delta_at(
    rng: np.random.Generator, num_coordinates: int, indices: npt.NDArray[np.int64], table: Table = TOP_K
) -> QuantisedDelta:
    return QuantisedDelta(
        num_coordinates,
        indices.astype(np.int64),
        rng.integers(0, 16, len(indices), np.uint8),
        rng.integers(0, MAX_SCALE + 1, num_blocks(len(indices)), np.uint8),
        table,
    )


CHUNK = CHUNK_COORDINATES

HELLO = Hello(run_id=RUN, address=PeerInfo(id=AUTHOR, addresses=("192.0.2.7:4433", "[2001:db8::7]:4433")))

SYNC = SyncMessage(
    set_digest=b"\x05" * 32,
    sum_digest=b"\x06" * 32,
    table=(LogSummary(PastEntry(b"\x01" * 32, 7, (9, 12)), b"\x07" * 32),),
    complete=("a", "0f" * 32),
    branches=(Branch("0f", (b"\x08" * 16,) * 16),),
    start="compare",
    records=(CONTRIBUTION.wire,),
)
