"""The merge: records, causal context, OR-Set, exact integer sum, join and sync. No file, socket, clock or randomness.

`STATE_TYPES` lists every type that has a `join`; one property suite checks the laws for each of them.
"""

from spikemesh.crdt.context import CausalContext
from spikemesh.crdt.integer_sum import QUANTUM_BITS, Addend, Chunk, Delta, IntegerSum
from spikemesh.crdt.orset import PART_DIGEST_BYTES, RecordSet
from spikemesh.crdt.records import (
    MAX_SEQ,
    WEIGHT_ONE,
    Contribution,
    Genesis,
    PastEntry,
    Record,
    Retraction,
    TensorSpec,
)
from spikemesh.crdt.replica import Replica
from spikemesh.crdt.sync import Branch, LogSummary, SyncMessage, SyncState, next_message, receive
from spikemesh.kernels.delta.positions_twin import CHUNK_COORDINATES

STATE_TYPES = (CausalContext, RecordSet, Replica)

__all__ = [
    "CHUNK_COORDINATES",
    "MAX_SEQ",
    "PART_DIGEST_BYTES",
    "QUANTUM_BITS",
    "STATE_TYPES",
    "WEIGHT_ONE",
    "Addend",
    "Branch",
    "CausalContext",
    "Chunk",
    "Contribution",
    "Delta",
    "Genesis",
    "IntegerSum",
    "LogSummary",
    "PastEntry",
    "Record",
    "RecordSet",
    "Replica",
    "Retraction",
    "SyncMessage",
    "SyncState",
    "TensorSpec",
    "next_message",
    "receive",
]
