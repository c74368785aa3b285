"""One universe of records, a thousand histories of learning it, one state: the same set and sum, to the bit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from spikemesh.crdt import (
    CHUNK_COORDINATES,
    QUANTUM_BITS,
    WEIGHT_ONE,
    CausalContext,
    Contribution,
    Delta,
    IntegerSum,
    PastEntry,
    Record,
    RecordSet,
    Replica,
)
from spikemesh.crdt.integer_sum import MAX_CONTRIBUTIONS
from tests.crdt import laws, oracle
from tests.crdt.strategies import (
    AUTHORS,
    MAX_QUANTUM,
    MISSING,
    Universe,
    contribution,
    delta_hash,
    make_delta,
    retraction,
)

ORDERS = 1_000
FOUNDER, HONEST, CHEAT, STRANGER = AUTHORS


def build_universe(num_coordinates: int, *, seed: int = 7) -> Universe:
    """Forty records with everything in it that a run can go through."""
    rng = random.Random(seed)
    values: dict[bytes, dict[int, int]] = {}

    def add(author: bytes, seq: int) -> Record:
        where = [*rng.sample(range(num_coordinates), 12), 0, num_coordinates - 1, num_coordinates // 2]
        vector = {
            index: rng.choice([rng.randint(-MAX_QUANTUM, MAX_QUANTUM), MAX_QUANTUM, -MAX_QUANTUM]) for index in where
        }
        values[delta_hash(vector)] = vector
        return contribution(author, seq, rng.randint(1, WEIGHT_ONE), delta_hash(vector))

    founder = [add(FOUNDER, seq) for seq in range(1, 6)]
    honest = [add(HONEST, seq) for seq in (1, 2, 3, 5, 8, 9)]
    cheat = [add(CHEAT, seq) for seq in (1, 2, 2, 3, 3, 3, 4)]
    stranger = [add(STRANGER, seq) for seq in (7, 1, 3)]
    twice = [retraction(CHEAT, 5, (cheat[0].id,)), retraction(CHEAT, 5, (cheat[0].id, MISSING))]
    retractions = [
        retraction(HONEST, 10, (honest[1].id,)),
        retraction(FOUNDER, 6, (honest[2].id, cheat[1].id, MISSING)),
        retraction(STRANGER, 8, (honest[3].id, founder[0].id)),
        retraction(CHEAT, 6, (cheat[6].id,)),
        retraction(FOUNDER, 7, (honest[1].id,)),
        *twice,
    ]
    records = (*founder, *honest, *cheat, *stranger, *retractions)
    return Universe(num_coordinates, frozenset((FOUNDER,)), records, values)


def batches(rng: random.Random, records: Sequence[Record]) -> list[list[Record]]:
    """All of `records` in a random order, a few of them twice, cut at random places."""
    order = [*records, *rng.choices(records, k=rng.randrange(1, 12))]
    rng.shuffle(order)
    parts = []
    while order:
        size = rng.randint(1, 9)
        parts.append(order[:size])
        order = order[size:]
    return parts


@dataclass
class Node:
    """A replica, and what its disk holds: every record it was ever given, and a sum saved some time before."""

    universe: Universe
    replica: Replica
    saved: Replica
    rows: list[Record] = field(default_factory=list)

    def take(self, records: Sequence[Record]) -> None:
        self.rows.extend(records)
        self.replica = self.replica.insert(records, self.universe.delta)

    def adopt(self, other: Replica) -> None:
        self.rows.extend(other.records)
        self.replica = self.replica.join(other, self.universe.delta)

    def restart(self) -> None:
        chunks = [chunk.to_bytes() for chunk in self.saved.sum.chunks]
        total = IntegerSum.from_bytes(self.universe.num_coordinates, chunks)
        counted = frozenset(self.saved.records.visible)
        records = self.universe.record_set(self.rows)
        self.replica = Replica.restore(records, total, counted, self.universe.delta, known=self.rows)


def random_history(universe: Universe, rng: random.Random) -> Replica:
    """Nodes learn parts of it in some order, restart now and then, and are joined in some tree."""
    empty = universe.replica(())
    nodes = [Node(universe, empty, empty) for _ in range(rng.randint(1, 4))]
    for batch in batches(rng, universe.records):
        node = rng.choice(nodes)
        node.take(batch)
        match rng.randrange(6):
            case 0:
                node.saved = node.replica
            case 1:
                node.restart()
            case 2:
                node.adopt(rng.choice(nodes).replica)
    replicas = [node.replica for node in nodes]
    while len(replicas) > 1:
        left, right = (replicas.pop(rng.randrange(len(replicas))) for _ in range(2))
        replicas.append(left.join(right, universe.delta))
    return replicas[0]


def test_a_thousand_orders_give_one_digest() -> None:
    universe = build_universe(300)
    expected = universe.replica(universe.records)
    laws.assert_stands_for(universe, expected, universe.record_set(universe.records))
    for seed in range(ORDERS):
        result = random_history(universe, random.Random(seed))
        assert (result.records.digest, result.sum.digest) == (expected.records.digest, expected.sum.digest), seed
        if seed % 50 == 0:
            assert laws.dump(result) == laws.dump(expected), seed


def test_orders_across_a_chunk_boundary() -> None:
    universe = build_universe(CHUNK_COORDINATES + 37)
    expected = laws.dump(universe.replica(universe.records))
    for seed in range(20):
        assert laws.dump(random_history(universe, random.Random(seed))) == expected, seed


def test_retracted_equals_never_sent() -> None:
    """One by one, retracted by their authors: the sum is to the bit that of a run in which they never existed."""
    universe = build_universe(300)
    replica = universe.replica(universe.records)
    for number, (tag, body) in enumerate(sorted(replica.records.visible.items())):
        gone = retraction(body.author, 100 + number, (tag,))
        never = universe.replica(record for record in universe.records if record.id != tag)
        for order in ([*universe.records, gone], [gone, *universe.records], [*universe.records[::-1], gone]):
            state = universe.replica(order)
            assert state.sum.digest == never.sum.digest
            assert laws.dump(state.sum) == laws.dump(never.sum)
            assert state.records != never.records, "the set remembers what the sum has forgotten"


def test_retracting_everything_gives_zero() -> None:
    universe = build_universe(300)
    replica = universe.replica(universe.records)
    replica = replica.insert([retraction(FOUNDER, 900, tuple(replica.records.visible))], universe.delta)
    assert replica.records.visible == {}
    assert replica.sum == IntegerSum.zero(300)


def test_stranger_cannot_retract() -> None:
    universe = build_universe(300)
    before = universe.replica(universe.records)
    after = before.insert([retraction(STRANGER, 900, tuple(r.id for r in universe.records))], universe.delta)
    own = {tag for tag, body in before.records.visible.items() if body.author == STRANGER}
    assert own
    assert before.records.visible.keys() - after.records.visible.keys() == own


def test_equivocated_retraction_does_not_count() -> None:
    universe = build_universe(300)
    target = next(
        tag for tag, body in universe.replica(universe.records).records.visible.items() if body.author == HONEST
    )
    one, two = retraction(HONEST, 50, (target,)), retraction(HONEST, 50, (target, MISSING))
    before = universe.replica(universe.records)
    retracted = before.insert([one], universe.delta)
    assert target not in retracted.records.visible
    restored = retracted.insert([two], universe.delta)
    assert restored.records.visible == before.records.visible
    assert restored.sum == before.sum


def test_straggler_added_last_gives_the_same() -> None:
    """However old it is: nothing was closed, rounded or compacted away meanwhile."""
    universe = build_universe(300)
    expected = universe.replica(universe.records)
    for straggler in universe.records:
        rest = [record for record in universe.records if record.id != straggler.id]
        late = universe.replica(rest).insert([straggler], universe.delta)
        assert laws.dump(late) == laws.dump(expected)


def test_third_proof_changes_nothing_once_two_smaller_are_held() -> None:
    """Of four records under one number everybody ends with the same two, in every order, and holds no more."""
    values = {delta_hash({i: 1}): {i: 1} for i in range(4)}
    forged = [contribution(CHEAT, 1, 1, name) for name in values]
    universe = Universe(97, frozenset(), tuple(forged), values)
    smallest = sorted(record.id for record in forged)[:2]
    for seed in range(50):
        order = random.Random(seed).sample(forged, k=len(forged))
        held = universe.replica(order)
        assert [record.id for record in held.records] == smallest
        assert held.sum == IntegerSum.zero(97)
        assert len(held.records.equivocations) == 1


def test_join_starts_from_the_nearer_sum() -> None:
    """Adopting a snapshot reads the deltas that it lacks, and no others, on either side of the join."""
    universe = build_universe(300)
    snapshot = universe.replica(universe.records)
    late = next(tag for tag in snapshot.records.visible)
    newcomer = universe.replica(record for record in universe.records if record.id == late)
    peer = universe.replica(record for record in universe.records if record.id != late)
    for a, b in ((newcomer, peer), (peer, newcomer)):
        read: list[Contribution] = []

        def deltas(body: Contribution, read: list[Contribution] = read) -> Delta:
            read.append(body)
            return universe.delta(body)

        assert a.join(b, deltas) == snapshot
        assert read == [snapshot.records.visible[late]]


def test_restart_after_a_counted_record_left_the_set() -> None:
    """Two smaller ids come to prove that its number is equivocated, and the saved sum still counts it."""
    values = {delta_hash({i: 1}): {i: 1} for i in range(3)}
    first, second, counted = sorted((contribution(CHEAT, 1, 1, name) for name in values), key=lambda record: record.id)
    universe = Universe(97, frozenset(), (first, second, counted), values)
    node = Node(universe, universe.replica(()), universe.replica(()))
    node.take([counted])
    node.saved = node.replica
    node.take([first, second])
    assert counted not in node.replica.records
    node.restart()
    assert node.replica == universe.replica([first, second])
    assert node.replica.sum == IntegerSum.zero(97)


def test_restore_refuses_a_sum_of_unknown_records() -> None:
    universe = build_universe(300)
    replica = universe.replica(universe.records)
    with pytest.raises(ValueError, match="1 contributions that are not in the records"):
        Replica.restore(replica.records, replica.sum, frozenset((*replica.records.visible, MISSING)), universe.delta)


def test_replicas_of_different_runs_do_not_join() -> None:
    universe = build_universe(300)
    with pytest.raises(ValueError, match="retractors"):
        RecordSet(frozenset((FOUNDER,))).join(RecordSet())
    for a, b in ((300, 301), (301, 300)):
        with pytest.raises(ValueError, match="coordinates"):
            Replica.empty(a).join(Replica.empty(b), universe.delta)


# The range: nothing is clipped, nothing wraps.


def test_bound_of_the_sum() -> None:
    """Weight and quantum at their extremes, 2**20 times on one coordinate, need 59 of the 63 bits."""
    assert WEIGHT_ONE == 1 << 12
    assert MAX_CONTRIBUTIONS == 1 << 20
    assert MAX_QUANTUM == (1 << QUANTUM_BITS) - 1
    assert MAX_CONTRIBUTIONS * WEIGHT_ONE * MAX_QUANTUM < 1 << 59


@pytest.mark.parametrize("sign", [1, -1])
def test_sum_at_the_bound_is_exact(sign: int) -> None:
    """The sum of 2**20 extreme contributions but one is written down, the last one folded: exact, and back again."""
    each = sign * WEIGHT_ONE * MAX_QUANTUM
    almost = (MAX_CONTRIBUTIONS - 1) * each
    total = IntegerSum.from_bytes(3, [np.array([almost, 0, -almost], np.int64).tobytes()])
    last = make_delta(3, {0: sign * MAX_QUANTUM, 2: -sign * MAX_QUANTUM})
    full = total.fold([(last, WEIGHT_ONE)])
    assert full.chunks[0].values.tolist() == [MAX_CONTRIBUTIONS * each, 0, -MAX_CONTRIBUTIONS * each]
    assert max(map(abs, full.chunks[0].values.tolist())) < 1 << 59
    assert full.fold([(last, -WEIGHT_ONE)]) == total


def test_many_extreme_folds_are_exact() -> None:
    extreme = make_delta(2, {0: MAX_QUANTUM, 1: -MAX_QUANTUM})
    total, folds = IntegerSum.zero(2), 2_000
    for _ in range(folds):
        total = total.fold([(extreme, WEIGHT_ONE)])
    assert total.chunks[0].values.tolist() == [folds * WEIGHT_ONE * MAX_QUANTUM, -folds * WEIGHT_ONE * MAX_QUANTUM]
    assert total == IntegerSum.zero(2).fold([(extreme, WEIGHT_ONE)] * folds)


@pytest.mark.parametrize("weight", [0, WEIGHT_ONE + 1, -WEIGHT_ONE - 1, 1 << 40])
def test_weights_outside_are_refused(weight: int) -> None:
    with pytest.raises(ValueError, match="weight"):
        IntegerSum.zero(2).fold([(make_delta(2, {0: 1}), weight)])


@pytest.mark.parametrize("quantum", [MAX_QUANTUM + 1, -MAX_QUANTUM - 1, (1 << 31) - 1, -(1 << 31)])
def test_quanta_outside_are_refused(quantum: int) -> None:
    with pytest.raises(ValueError, match="27 bits"):
        make_delta(2, {0: quantum})


@pytest.mark.parametrize(
    ("indices", "quanta", "reason"),
    [
        ([-1], [1], "must lie in"),
        ([4], [1], "must lie in"),
        ([1, 1], [1, 1], "ascending"),
        ([2, 1], [1, 1], "ascending"),
        ([1, 2], [1], "equally long"),
    ],
)
def test_malformed_deltas_are_refused(indices: list[int], quanta: list[int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Delta(4, np.array(indices, np.int64), np.array(quanta, np.int32))
    with pytest.raises(ValueError, match="int64 and int32"):
        Delta(4, np.array([1], np.int32), np.array([1], np.int32))


def test_sums_of_other_layouts_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        IntegerSum.zero(3).fold([(make_delta(2, {0: 1}), 1)])
    for num_coordinates, sizes in ((3, [2]), (3, [3, 1]), (3, []), (CHUNK_COORDINATES + 1, [CHUNK_COORDINATES])):
        with pytest.raises(ValueError, match="expected chunks"):
            IntegerSum.from_bytes(num_coordinates, [bytes(8 * size) for size in sizes])
    with pytest.raises(ValueError):
        IntegerSum.from_bytes(1, [bytes(7)])
    for num_coordinates in (0, -1):
        with pytest.raises(ValueError, match="at least one coordinate"):
            IntegerSum.zero(num_coordinates)
        with pytest.raises(ValueError, match="at least one coordinate"):
            IntegerSum.from_bytes(num_coordinates, [])


def test_folding_shares_the_untouched_chunks() -> None:
    """Memory of a fold is bounded by the chunks it touches; the sum it started from keeps its bits."""
    before = IntegerSum.zero(3 * CHUNK_COORDINATES)
    after = before.fold([(make_delta(3 * CHUNK_COORDINATES, {CHUNK_COORDINATES: 1}), 5)])
    assert [a is b for a, b in zip(before.chunks, after.chunks, strict=True)] == [True, False, True]
    assert before == IntegerSum.zero(3 * CHUNK_COORDINATES)
    with pytest.raises(ValueError, match="read-only"):
        after.chunks[1].values[0] = 1
    assert after.fold([]) is after


def test_resolve_rounds_once() -> None:
    """theta0 + sum * 2**grid / 4096: powers of two times integers, so small cases are exact in float32."""
    total = IntegerSum.zero(3).fold([(make_delta(3, {0: 1 << 20, 2: -(1 << 20)}), WEIGHT_ONE)])
    theta = total.resolve(np.array([1.0, 2.0, 0.25], np.float32), -22)
    assert theta.dtype == np.float32
    assert theta.tolist() == [1.25, 2.0, 0.0]
    with pytest.raises(ValueError, match="3 elements"):
        total.resolve(np.zeros(2, np.float32), -22)


# Equal values are equal however they were written down.


def test_context_is_a_value() -> None:
    """An author of whom nothing was seen is no difference, and an author listed twice loses nothing."""
    assert CausalContext.from_entries([PastEntry(HONEST, 0)]) == CausalContext()
    assert CausalContext.from_entries([PastEntry(HONEST, 0)]).authors() == frozenset()
    twice = CausalContext.from_entries([PastEntry(HONEST, 2), PastEntry(HONEST, 0, (3, 7))])
    assert twice == CausalContext.from_entries([PastEntry(HONEST, 3, (7,))])
    assert twice.entries() == (PastEntry(HONEST, 3, (7,)),)
    assert (twice.prefix(HONEST), twice.last(HONEST), twice.last(CHEAT)) == (3, 7, 0)
    assert [seq for seq in range(9) if (HONEST, seq) in twice] == [1, 2, 3, 7]
    assert CausalContext.from_entries(twice.entries()) == twice
    assert not CausalContext.from_entries([PastEntry(HONEST, 4)]) <= twice


def test_signature_is_not_identity() -> None:
    """A second valid signature of one body is the same record: no equivocation, and the same digest."""
    universe = build_universe(300)
    record = universe.records[0]
    other = Record(record.id, record.body, record.wire + b"another signature")
    held = universe.record_set([record])
    assert held.insert([other]) is held
    assert held.digest == universe.record_set([other]).digest


def test_oracle_is_independent() -> None:
    """The one number that everything is compared with, once by hand."""
    one, two = {0: 3, 1: -2}, {1: 5}
    values = {delta_hash(v): v for v in (one, two)}
    records = (contribution(HONEST, 1, 10, delta_hash(one)), contribution(CHEAT, 4, 4096, delta_hash(two)))
    universe = Universe(3, frozenset(), records, values)
    assert oracle.total(universe, records) == [30, 20_460, 0]
    laws.assert_sum(universe, universe.replica(records))
