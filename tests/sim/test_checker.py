"""The checker must be able to fail: each broken promise is seen, and says how to see it again."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from spikemesh.crdt import Record, Replica
from spikemesh.errors import PromiseBroken
from spikemesh.node import Ledger
from spikemesh.sim import History, Swarm, run_virtually, scenarios, simulate
from spikemesh.sim.disk import MemoryStore
from spikemesh.sim.run import GENESIS, RUN_ID, THETA0, contribution
from spikemesh.store import RecordRow


def history_of(*numbers: int) -> tuple[History, list[Record]]:
    history, records = History(), []
    for number in numbers:
        record, delta = contribution(number, 1)
        history.acknowledge(record, delta)
        records.append(record)
    return history, records


def replica_of(history: History, records: Iterable[Record]) -> Replica:
    ledger = Ledger.open(MemoryStore(), GENESIS, RUN_ID, THETA0)
    ledger.insert([*records], history.deltas)
    return ledger.replica


def test_a_good_end() -> None:
    history, records = history_of(1, 2, 3)
    history.check_end({1: replica_of(history, records), 2: replica_of(history, records[::-1])})


def test_a_lost_contribution_is_seen() -> None:
    history, records = history_of(1, 2, 3)
    with pytest.raises(PromiseBroken, match="1 of 3 acknowledged contributions are lost"):
        history.check_end({1: replica_of(history, records[:2])})


def test_nodes_that_are_not_equal_are_seen() -> None:
    history, records = history_of(1, 2)
    with pytest.raises(PromiseBroken, match="2 nodes end with 2 sets"):
        history.check_end({1: replica_of(history, records), 2: replica_of(history, records[:1])})


def test_one_that_counts_twice_is_seen_also_when_all_agree() -> None:
    history, records = history_of(1, 2)
    good = replica_of(history, records)
    twice = Replica(good.records, replica_of(history, records[:1]).sum.fold(_terms(history, records)))
    with pytest.raises(PromiseBroken, match="counted once"):
        history.check_end({1: twice, 2: twice})
    history.check_digests([twice])
    with pytest.raises(PromiseBroken, match="same records and different sums"):
        history.check_digests([good])


def _terms(history: History, records: Iterable[Record]) -> list[tuple[object, int]]:
    ledger = Ledger.open(MemoryStore(), GENESIS, RUN_ID, THETA0)
    ledger.insert([*records], history.deltas)
    return [(ledger.delta(body), body.weight) for body in ledger.replica.records.visible.values()]


class ForgetfulStore(MemoryStore):
    """A disk that acknowledges and does not keep."""

    def add_records(self, rows: Iterable[RecordRow]) -> None:
        super().add_records([*rows][1:])


def test_a_disk_that_forgets_is_seen_at_the_next_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with Swarm() as swarm:
            await swarm.start(1)
            swarm.members[1].store = ForgetfulStore()
            swarm.node(1).ledger.store = swarm.members[1].store
            await swarm.publish(1)
            with pytest.raises(PromiseBroken, match="lost 1 records in a crash"):
                await swarm.crash(1)

    run_virtually(story())


def test_what_never_happens_is_seen() -> None:
    async def story() -> None:
        async with Swarm() as swarm:
            await scenarios.begin(swarm, 4)
            swarm.links.cut(swarm.ids([0, 1]), swarm.ids([2, 3]))
            await swarm.publish(0)
            with pytest.raises(PromiseBroken, match="within 30 virtual seconds"):
                await swarm.settle(within_s=30)
            swarm.links.heal()
            await swarm.settle()

    run_virtually(story())


def test_a_failure_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spikemesh.sim.history.History._oracle", lambda self, replica: 0)
    with pytest.raises(PromiseBroken, match="simulate --scenario flapping-peer --nodes 4 --seed 9"):
        simulate("flapping-peer", num_nodes=4, seed=9)
