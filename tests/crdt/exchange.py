"""Two or more nodes and the messages between them, in lists: whoever tests may lose, repeat or reorder them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from spikemesh.crdt import Record, Replica, SyncMessage, SyncState, next_message, receive
from spikemesh.crdt.sync import MAX_RECORDS_BYTES
from tests.crdt.strategies import Universe

Wires = Mapping[bytes, Record]
"""Every record of the world by its signed bytes: what decoding and verifying them would give."""


@dataclass
class Node:
    """A replica, what it believes of its peers, and records that arrived and are not folded yet."""

    universe: Universe
    replica: Replica
    states: dict[int, SyncState] = field(default_factory=dict)
    waiting: list[Record] = field(default_factory=list)

    def speak(self, peer: int, news: Collection[bytes] = ()) -> SyncMessage | None:
        self.states[peer], message = next_message(self.replica, self.states.get(peer, SyncState()), news)
        if message is not None:
            assert sum(map(len, message.records)) <= MAX_RECORDS_BYTES
            assert len(set(message.records)) == len(message.records)
            assert message.set_digest == self.replica.records.digest
            assert message.sum_digest == self.replica.sum.digest
        return message

    def hear(self, peer: int, message: SyncMessage, wires: Wires) -> None:
        self.states[peer] = receive(self.states.get(peer, SyncState()), message)
        self.waiting.extend(wires[wire] for wire in message.records)

    def fold(self, count: int | None = None) -> None:
        """Take in the next `count` of the records that wait, or all."""
        count = len(self.waiting) if count is None else count
        self.replica = self.replica.insert(self.waiting[:count], self.universe.delta)
        del self.waiting[:count]

    def forget(self, peer: int) -> None:
        self.states[peer] = SyncState()

    @property
    def digests(self) -> tuple[bytes, bytes]:
        return self.replica.records.digest, self.replica.sum.digest


def make_nodes(universe: Universe, *known: Iterable[Record]) -> list[Node]:
    return [Node(universe, universe.replica(records)) for records in known]


def wires_of(*sources: Iterable[Record]) -> dict[bytes, Record]:
    return {record.wire: record for records in sources for record in records}


@dataclass
class Transcript:
    """What two nodes said until both were silent, in order: (speaker, message)."""

    said: list[tuple[int, SyncMessage]] = field(default_factory=list)

    def records_by(self, speaker: int) -> list[bytes]:
        return [wire for who, message in self.said if who == speaker for wire in message.records]


def talk(
    a: Node,
    b: Node,
    wires: Wires,
    *,
    numbers: tuple[int, int] = (0, 1),
    max_messages: int = 1_000,
    before_speaking: Callable[[Node], None] = Node.fold,
    news: Collection[bytes] = (),
) -> Transcript:
    """One speaks, the other answers, until neither has anything to say. A node folds what arrived before it speaks."""
    transcript, nodes = Transcript(), dict(zip(numbers, (a, b), strict=True))
    silent, speaker = 0, numbers[0]
    while silent < 2:
        listener = numbers[0] + numbers[1] - speaker
        before_speaking(nodes[speaker])
        message = nodes[speaker].speak(listener, news if speaker == numbers[0] else ())
        if message is None:
            silent += 1
        else:
            silent = 0
            transcript.said.append((speaker, message))
            nodes[listener].hear(speaker, message, wires)
            assert len(transcript.said) <= max_messages, "they never stop talking"
        speaker = listener
    return transcript
