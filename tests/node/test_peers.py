"""Whom a node talks to, and whom it tells of."""

from __future__ import annotations

import random

from spikemesh.node.peers import MAX_PEERS, PeerTable
from spikemesh.transport import PeerAddress


class Clock:
    now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    async def sleep(self, duration_s: float) -> None:
        raise NotImplementedError


def peer(number: int) -> PeerAddress:
    return PeerAddress(id=number.to_bytes(32, "big"))


def table(num_answering: int, num_silent: int) -> tuple[PeerTable, Clock]:
    clock = Clock()
    peers = PeerTable(peer(0).id, clock, random.Random(1))
    for number in range(1, 1 + num_answering + num_silent):
        peers.learn(peer(number))
        if number <= num_answering:
            peers.succeeded(peer(number).id)
    return peers, clock


def numbers(addresses: list[PeerAddress]) -> set[int]:
    return {int.from_bytes(address.id, "big") for address in addresses}


def test_news_go_to_peers_that_answer_and_greetings_to_others() -> None:
    peers, _ = table(5, 5)
    for _ in range(20):
        assert numbers([p.address for p in peers.choose(3)]) <= {1, 2, 3, 4, 5}
        assert numbers([p.address for p in peers.choose(1, strangers=True)]) <= {6, 7, 8, 9, 10}
    assert len(peers.choose(8)) == 8
    assert len(peers.choose(99)) == len(peers.choose(99, strangers=True)) == 10


def test_a_silent_peer_waits_for_its_turn_and_gets_it() -> None:
    peers, clock = table(0, 1)
    for _ in range(20):
        peers.failed(peer(1).id)
        assert not peers.choose(1)
        clock.now_s += 8.0
        assert peers.choose(1)


def test_over_time_everybody_is_told_of_and_never_more_than_asked_for() -> None:
    """The first 64 by id, told to everybody, made a swarm in which everybody knows the same 64."""
    peers, _ = table(100, 20)
    samples = [peers.sample(8, without=peer(7).id) for _ in range(200)]
    assert all(len(sample) == len(set(sample)) == 8 for sample in samples)
    assert set().union(*map(numbers, samples)) == set(range(1, 101)) - {7}
    few, _ = table(2, 20)
    assert {1, 2} <= numbers(few.sample(8, without=peer(7).id))


def test_a_full_table_keeps_the_peers_that_answer() -> None:
    peers, _ = table(3, 2 * MAX_PEERS)
    assert len(peers.addresses()) == MAX_PEERS
    assert {1, 2, 3} <= numbers([*peers.addresses()])
