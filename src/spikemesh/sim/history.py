"""What happened in a simulation, and whether the swarm kept its promises.

The words are Jepsen's: a *nemesis* breaks things, the *history* is what was done and acknowledged, and the *checker*
compares it with what the nodes hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
from blake3 import blake3

from spikemesh.codec import decode_delta
from spikemesh.crdt import Record, Replica
from spikemesh.errors import PromiseBroken
from spikemesh.sim.run import NUM_COORDINATES


class History:
    """Everything is noted in order; two runs with one trace did the same things at the same moments."""

    def __init__(self) -> None:
        self._trace = blake3()
        self.acknowledged: dict[bytes, Record] = {}
        self.deltas: dict[bytes, bytes] = {}
        self.counts: Counter[str] = Counter()
        self._sums: dict[bytes, bytes] = {}

    @property
    def trace(self) -> str:
        return self._trace.hexdigest()[:32]

    def note(self, now_s: float, what: str, *facts: bytes | float) -> None:
        parts = (fact if isinstance(fact, bytes) else repr(fact).encode() for fact in facts)
        self._trace.update(b" ".join((repr(now_s).encode(), what.encode(), *parts)) + b"\n")
        self.counts[what] += 1

    def acknowledge(self, record: Record, delta: bytes) -> None:
        """From now on this contribution must never be lost."""
        self.acknowledged[record.id] = record
        self.deltas[blake3(delta).digest()] = delta

    # --- the checker

    def check_digests(self, replicas: Iterable[Replica]) -> None:
        """Equal sets have equal sums: now, among each other and with every set that was ever looked at."""
        for replica in replicas:
            if self._sums.setdefault(replica.records.digest, replica.sum.digest) != replica.sum.digest:
                raise PromiseBroken("two nodes hold the same records and different sums")

    def check_kept(self, number: int, before: Replica, after: Replica) -> None:
        """A node that crashed holds after its restart what it held before."""
        if missing := [record for record in before.records if record not in after.records]:
            raise PromiseBroken(f"node {number} lost {len(missing)} records in a crash")

    def check_end(self, replicas: Mapping[int, Replica]) -> None:
        """All are equal, nothing acknowledged is missing, and nothing counts twice."""
        self.check_digests(replicas.values())
        sets = Counter(replica.records.digest for replica in replicas.values())
        if len(sets) != 1:
            raise PromiseBroken(f"{len(replicas)} nodes end with {len(sets)} sets of records; they should be equal")
        replica = next(iter(replicas.values()))
        if missing := [record for record in self.acknowledged.values() if record not in replica.records]:
            raise PromiseBroken(f"{len(missing)} of {len(self.acknowledged)} acknowledged contributions are lost")
        if not np.array_equal(self._oracle(replica), np.concatenate([c.values for c in replica.sum.chunks])):
            raise PromiseBroken("the sum is not that of every visible contribution, counted once")

    def _oracle(self, replica: Replica) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The sum, in the plainest way there is."""
        total = np.zeros(NUM_COORDINATES, np.int64)
        for body in replica.records.visible.values():
            delta = decode_delta(self.deltas[body.delta_hash], num_coordinates=NUM_COORDINATES).to_delta()
            total[delta.indices] += delta.quanta.astype(np.int64) * body.weight
        return total
