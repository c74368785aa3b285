"""A few nodes, every operation a run can see, any order: hypothesis looks for a history that breaks them.

`ReliableNetwork` delivers every message once and in order; there silence must mean equality, with nobody starting over.
`HostileNetwork` also loses, repeats and reorders messages, and restarts nodes; there one side starting over must do.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from spikemesh.crdt import WEIGHT_ONE, IntegerSum, Record, Replica, SyncMessage
from tests.crdt import laws, oracle
from tests.crdt.exchange import Node
from tests.crdt.strategies import AUTHORS, MISSING, QUANTA, Universe, author_id, contribution, delta_hash, retraction

NUM_NODES = 3
OUTSIDER = author_id(99)
"""An author without a node of its own: its records come in from anywhere, with gaps and out of order."""

NODES = st.integers(0, NUM_NODES - 1)
PAIRS = st.sampled_from(list(itertools.permutations(range(NUM_NODES), 2)))
NUM_COORDINATES = 5


class Swarm(RuleBasedStateMachine):
    """What nodes do by themselves. Node 0's author is the run's retractor."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[bytes, dict[int, int]] = {}
        self.universe = Universe(NUM_COORDINATES, frozenset(AUTHORS[:1]), (), self.values)
        empty = self.universe.replica(())
        self.nodes = [Node(self.universe, empty) for _ in range(NUM_NODES)]
        self.given: list[list[Record]] = [[] for _ in self.nodes]
        self.saved: list[Replica] = [empty] * NUM_NODES
        self.next_seq = [1] * NUM_NODES
        self.wires: dict[bytes, Record] = {}
        self.checked: dict[int, tuple[Replica, int]] = {}
        self.channels: dict[tuple[int, int], deque[SyncMessage]] = {
            pair: deque() for pair in itertools.permutations(range(NUM_NODES), 2)
        }

    # Records come to be.

    def learn(self, number: int, *records: Record) -> None:
        """Made or folded by this node: from now on it must never be lost."""
        self.wires.update((record.wire, record) for record in records)
        self.given[number].extend(records)
        self.nodes[number].replica = self.nodes[number].replica.insert(records, self.universe.delta)

    def add(self, author: bytes, seq: int, quantum: int, weight: int, signature: bytes = b"") -> Record:
        vector = {0: quantum, 3: -quantum, 4: 1 + seq}
        self.values[delta_hash(vector)] = vector
        return contribution(author, seq, weight, delta_hash(vector), signature=signature)

    def own_seq(self, number: int) -> int:
        self.next_seq[number] += 1
        return self.next_seq[number] - 1

    @rule(number=NODES, quantum=QUANTA, weight=st.integers(1, WEIGHT_ONE))
    def publish(self, number: int, quantum: int, weight: int) -> None:
        self.learn(number, self.add(AUTHORS[number], self.own_seq(number), quantum, weight))

    @rule(number=NODES, seq=st.integers(1, 5), quantum=QUANTA)
    def straggler_comes_in(self, number: int, seq: int, quantum: int) -> None:
        self.learn(number, self.add(OUTSIDER, seq, quantum, 1))

    @rule(number=NODES, data=st.data())
    def retract(self, number: int, data: st.DataObject) -> None:
        known = sorted({record.id for record in self.given[number]} | {MISSING})
        targets = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=2))
        self.learn(number, retraction(AUTHORS[number], self.own_seq(number), tuple(targets)))

    @rule(number=NODES, at=NODES, quantum=QUANTA, data=st.data())
    def equivocate(self, number: int, at: int, quantum: int, data: st.DataObject) -> None:
        """An author signs another record for a number it has used, and shows it to another node."""
        seq = data.draw(st.integers(1, max(1, self.next_seq[number] - 1)))
        self.next_seq[number] = max(self.next_seq[number], seq + 1)
        self.learn(at, self.add(AUTHORS[number], seq, quantum, 7, b"!"))

    # Nodes talk.

    @rule(pair=PAIRS)
    def speak(self, pair: tuple[int, int]) -> None:
        message = self.nodes[pair[0]].speak(pair[1])
        if message is not None:
            self.channels[pair].append(message)

    @rule(pair=PAIRS)
    def deliver(self, pair: tuple[int, int]) -> None:
        if self.channels[pair]:
            self.nodes[pair[1]].hear(pair[0], self.channels[pair].popleft(), self.wires)

    @rule(number=NODES, count=st.integers(1, 3))
    def fold(self, number: int, count: int) -> None:
        """Deltas have been fetched: some of what has arrived becomes part of the replica."""
        node = self.nodes[number]
        ready, node.waiting = node.waiting[:count], node.waiting[count:]
        self.learn(number, *ready)

    @rule(pair=PAIRS)
    def adopt(self, pair: tuple[int, int]) -> None:
        """A snapshot of the other one is joined."""
        mine, theirs = (self.nodes[number] for number in pair)
        before = laws.dump(theirs.replica)
        mine.replica = mine.replica.join(theirs.replica, self.universe.delta)
        self.given[pair[0]].extend(theirs.replica.records)
        assert laws.dump(theirs.replica) == before

    @rule(pair=PAIRS, num_messages=st.integers(1, 8), fold=st.booleans())
    def converse(self, pair: tuple[int, int], num_messages: int, fold: bool) -> None:
        """One speaks and the other answers, for a while; deltas are fetched at once, or later."""
        speaker, listener = pair
        for _ in range(num_messages):
            self.speak((speaker, listener))
            while self.channels[speaker, listener]:
                self.deliver((speaker, listener))
            if fold:
                self.fold(listener, len(self.nodes[listener].waiting))
            speaker, listener = listener, speaker

    # What must hold at any time.

    @invariant()
    def sums_and_sets_are_those_of_the_oracle(self) -> None:
        for number, (node, given) in enumerate(zip(self.nodes, self.given, strict=True)):
            state = node.replica, len(given)
            if self.checked.get(number) == state:
                continue
            self.checked[number] = state
            assert {record.id for record in node.replica.records} == oracle.kept_ids(given), "a record was lost"
            assert dict(node.replica.records.visible) == oracle.visible(given, self.universe.retractors)
            laws.assert_sum(self.universe, node.replica)

    # The end.

    at_the_end: Sequence[int] = range(NUM_NODES)
    """The nodes that talk at the end until they agree. With two of them no third one covers up what they miss."""

    def drain(self) -> int:
        """Everybody says everything to everybody, in order and without loss, until all are silent."""
        num_messages, pairs, quiet = 0, list(itertools.permutations(self.at_the_end, 2)), False
        limit = 60 + 12 * len(pairs) * (1 + len(self.wires))
        while not quiet:
            quiet = True
            for pair in pairs:
                speaker, listener = (self.nodes[number] for number in pair)
                while self.channels[pair]:
                    listener.hear(pair[0], self.channels[pair].popleft(), self.wires)
                    quiet = False
                for number in pair:
                    self.fold(number, len(self.nodes[number].waiting))
                message = speaker.speak(pair[1])
                if message is not None:
                    self.channels[pair].append(message)
                    num_messages, quiet = num_messages + 1, False
                    assert num_messages <= limit, "they never stop talking"
        return num_messages

    def check_agreement(self) -> None:
        for node in (self.nodes[number] for number in self.at_the_end):
            assert node.digests == self.nodes[0].digests, "all are silent, and not equal"
            assert laws.dump(node.replica.sum) == laws.dump(self.nodes[0].replica.sum)
        everything = [record for number in self.at_the_end for record in self.given[number]]
        assert {record.id for record in self.nodes[0].replica.records} == oracle.kept_ids(everything)
        laws.assert_sum(self.universe, self.nodes[0].replica)
        for a, b in itertools.permutations(self.at_the_end, 2):
            assert self.nodes[a].speak(b) is None, "one of two equal nodes goes on talking"


class ReliableNetwork(Swarm):
    def teardown(self) -> None:
        self.drain()
        self.check_agreement()


class HostileNetwork(Swarm):
    @rule(pair=PAIRS, data=st.data())
    def deliver_any(self, pair: tuple[int, int], data: st.DataObject) -> None:
        """Out of order, and perhaps once more later."""
        channel = self.channels[pair]
        if channel:
            place = data.draw(st.integers(0, len(channel) - 1))
            message = channel[place]
            if data.draw(st.booleans()):
                del channel[place]
            self.nodes[pair[1]].hear(pair[0], message, self.wires)

    @rule(pair=PAIRS, data=st.data())
    def lose(self, pair: tuple[int, int], data: st.DataObject) -> None:
        channel = self.channels[pair]
        if channel:
            del channel[data.draw(st.integers(0, len(channel) - 1))]

    @rule(pair=PAIRS)
    def start_over(self, pair: tuple[int, int]) -> None:
        self.nodes[pair[0]].forget(pair[1])

    @rule(number=NODES)
    def save(self, number: int) -> None:
        self.saved[number] = self.nodes[number].replica

    @rule(number=NODES)
    def restart(self, number: int) -> None:
        """All records are on disk, the sum is the one saved last; what was believed and not yet folded is gone."""
        saved = self.saved[number]
        total = IntegerSum.from_bytes(self.universe.num_coordinates, [chunk.to_bytes() for chunk in saved.sum.chunks])
        records, counted = self.universe.record_set(self.given[number]), frozenset(saved.records.visible)
        replica = Replica.restore(records, total, counted, self.universe.delta, known=self.given[number])
        self.nodes[number] = Node(self.universe, replica)

    @precondition(lambda self: any(node.waiting for node in self.nodes))
    @rule(number=NODES)
    def drop_waiting(self, number: int) -> None:
        """A delta could not be fetched: the record was not taken, and nobody was told so."""
        self.nodes[number].waiting.clear()

    def teardown(self) -> None:
        """What was in the air is lost; of every two nodes one starts over, and the other does not know."""
        for channel in self.channels.values():
            channel.clear()
        for node in self.nodes:
            node.waiting.clear()
        for a, b in itertools.combinations(self.at_the_end, 2):
            chosen, other = (a, b) if (len(self.wires) + a + b) % 2 else (b, a)
            self.nodes[chosen].forget(other)
        self.drain()
        self.check_agreement()


class ReliablePair(ReliableNetwork):
    at_the_end = range(2)


class HostilePair(HostileNetwork):
    at_the_end = range(2)


TestReliableNetwork, TestReliablePair = ReliableNetwork.TestCase, ReliablePair.TestCase
TestHostileNetwork, TestHostilePair = HostileNetwork.TestCase, HostilePair.TestCase
TestReliableNetwork.settings = TestReliablePair.settings = settings(max_examples=100, stateful_step_count=40)
TestHostileNetwork.settings = TestHostilePair.settings = settings(max_examples=150, stateful_step_count=40)
