"""A volunteer's rounds: what it publishes, what it takes in meanwhile, and where it goes on after any crash."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikemesh.crdt import CausalContext, PastEntry
from spikemesh.node import Node, Plan, Volunteer, giving_way, run_round
from spikemesh.node.clock import NICENESS, in_thread
from spikemesh.node.volunteer import crowd
from spikemesh.sim.run import THETA0, contribution, identity
from tests.node.world import NumpyTrainee, World, digests, in_world, publish


def volunteer(world: World, node: Node, number: int, *, num_rounds: int = 4) -> tuple[Volunteer, NumpyTrainee]:
    trainee = NumpyTrainee(number)
    folder = world.folder / f"node-{number}"
    plan = Plan(num_rounds=num_rounds, steps_per_round=3)
    return (
        Volunteer(node=node, identity=identity(number), trainee=trainee, plan=plan, folder=folder, clock=world.clock),
        trainee,
    )


def test_rounds_are_published_and_come_back_through_the_merge(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        node = await world.start(1)
        worker, trainee = volunteer(world, node, 1)
        await worker.run()
        assert run_round(node.ledger.replica.records) == 4
        assert worker.statistics().state == "done"
        assert worker.statistics().num_tokens == 4 * 3 * 2
        theta = node.ledger.resolve(node.ledger.replica)
        assert not np.array_equal(theta, THETA0)
        np.testing.assert_array_equal(trainee.absorbed[0], THETA0)

    in_world(tmp_path, story)


def test_two_volunteers_end_with_the_same_model_and_count_each_other(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await world.start(1)
        second = await world.start(2, first)
        workers = [volunteer(world, first, 1), volunteer(world, second, 2)]
        await asyncio.gather(*(worker.run() for worker, _ in workers))
        await world.until_equal(first, second)
        assert {n for _, trainee in workers for n, _ in trainee.extracted} <= {1, 2}
        assert any(n == 2 for _, trainee in workers for n, _ in trainee.extracted)

    in_world(tmp_path, story)


def test_what_others_send_is_added_between_two_steps_and_own_progress_is_kept(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        node = await world.start(1)
        trainee = NumpyTrainee(1)
        worker, _ = volunteer(world, node, 1)
        worker._trainee = trainee  # type: ignore[assignment]
        record, delta = contribution(5, 1)
        seen: list[Any] = []
        original = trainee.train

        def train(num_steps: int, progress: float, poll: Any, on_step: Any) -> None:
            original(1, progress, poll, on_step)
            before, base = trainee.live.copy(), trainee.base.copy()
            node.ledger.insert([record], {record.body.delta_hash: delta})  # type: ignore[union-attr]
            assert trainee.live is not None
            theta = poll()
            trainee.absorb(theta)
            seen.append((before - base, trainee.live - trainee.base))

        trainee.train = train  # type: ignore[method-assign]
        await worker._train_until_cancelled(0)
        own_before, own_after = seen[0]
        np.testing.assert_allclose(own_after, own_before, atol=1e-6)

    in_world(tmp_path, story)


@pytest.mark.parametrize("lost", ["nothing", "the record of the last round", "the newest state"])
def test_a_restart_goes_on_after_the_last_published_round(tmp_path: Path, lost: str) -> None:
    """Killed after publishing, between writing the state and publishing, or with a disk that lost the state."""

    async def story(world: World) -> None:
        node = await world.start(1)
        worker, trainee = volunteer(world, node, 1, num_rounds=3)
        if lost == "the record of the last round":
            await _fail_to_publish(node, worker, after=2)
        else:
            await worker.run()
        published = node.ledger.replica.records.context.last(node.id)
        state = trainee.state()
        await world.stop(1)
        if lost == "the newest state":
            (tmp_path / "node-1" / "trainee" / f"{published}.safetensors").unlink()
        node = await world.start(1)
        worker, again = volunteer(world, node, 1, num_rounds=5)
        worker._load_state()
        assert again.step == {"nothing": 9, "the record of the last round": 6, "the newest state": 0}[lost]
        if lost == "nothing":
            np.testing.assert_array_equal(again.live - again.base, state["live"] - state["base"])
        await worker.run()
        records = node.ledger.replica.records
        assert not records.equivocations
        assert records.context.prefix(node.id) == 5

    in_world(tmp_path, story)


async def _fail_to_publish(node: Node, worker: Volunteer, *, after: int) -> None:
    """Run until `after` rounds are published; the process dies before the next record is on the disk."""
    publish_really = node.publish

    async def publish_or_die(record: Any, blobs: Any) -> None:
        if record.seq > after:
            raise KeyboardInterrupt
        await publish_really(record, blobs)

    node.publish = publish_or_die  # type: ignore[method-assign]
    try:
        await worker.run()
    except KeyboardInterrupt:
        return
    raise AssertionError("it should have died")


def test_stopped_in_order_it_goes_on_in_the_middle_of_the_round(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        node = await world.start(1)
        node.offload = _yielding  # type: ignore[assignment]
        worker, trainee = volunteer(world, node, 1, num_rounds=2)
        original = trainee.train

        def cancelled_after_two_steps(num_steps: int, progress: float, poll: Any, on_step: Any) -> None:
            original(2, progress, poll, on_step)
            task.cancel()
            worker._stopping = True  # what the cancelled task is about to say, while a thread would still train
            original(1, progress, poll, on_step)

        trainee.train = cancelled_after_two_steps  # type: ignore[method-assign]
        task = asyncio.ensure_future(worker.run())
        await asyncio.wait({task})
        assert task.cancelled()
        assert len(node.ledger.replica.records) == 0
        await world.stop(1)
        node = await world.start(1)
        worker, again = volunteer(world, node, 1, num_rounds=1)
        worker._load_state()
        assert again.round_steps == again.step == 3
        np.testing.assert_allclose(again.live, trainee.live, atol=1e-8)
        await worker.run()
        assert again.step == 3  # nothing was left to do of the round but to publish it

    in_world(tmp_path, story)


async def _yielding(work: Any, *args: Any) -> Any:
    """Like a thread in that the caller can be cancelled meanwhile."""
    await asyncio.sleep(0)
    return work(*args)


def test_a_latecomer_counts_rounds_with_the_run(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await world.start(1)
        for seq in range(1, 4):
            await publish(first, *contribution(1, seq))
        late = await world.start(2, first)
        worker, _ = volunteer(world, late, 2, num_rounds=4)
        await worker.run()
        assert run_round(late.ledger.replica.records) == 4
        await world.until_equal(first, late)
        assert digests(first) == digests(late)

    in_world(tmp_path, story)


def context(**last: int) -> CausalContext:
    return CausalContext.from_entries(PastEntry(name.encode().ljust(32), seq) for name, seq in last.items())


@pytest.mark.parametrize(
    ("window", "now", "alive", "expected"),
    [
        ([context(), context()], context(), 0, (1, 0.0)),
        ([context(), context()], context(), 3, (4, 0.0)),
        ([context(me=1, a=1), context(me=2, a=2)], context(me=2, a=3), 5, (2, 0.0)),
        ([context(a=1, b=1), context(a=2, b=2)], context(a=3, b=3, c=1), 5, (4, 0.0)),
        ([context(a=1), context(a=4)], context(a=7), 1, (2, 2.0)),
        ([context(a=5), context(a=5)], context(a=5), 1, (2, 0.0)),
        ([context(a=1, b=1), context(a=2, b=2)], context(a=4, b=3), 1, (3, 0.0)),
    ],
)
def test_how_many_authors_share_a_round_and_how_late_it_is(
    window: list[CausalContext], now: CausalContext, alive: int, expected: tuple[int, float]
) -> None:
    assert crowd(window, now, b"me".ljust(32), alive) == expected


def test_a_record_whose_delta_rotted_comes_back_and_its_number_is_not_used_again(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await world.start(1)
        second = await world.start(2, first)
        worker, _ = volunteer(world, second, 2, num_rounds=3)
        await worker.run()
        await world.until_equal(first, second)
        before = digests(second)
        last = next(r for r in second.ledger.replica.records if r.seq == 3)
        await world.stop(2)
        name = last.body.delta_hash.hex()  # type: ignore[union-attr]
        (tmp_path / "node-2" / "blobs" / name[:2] / name).write_bytes(b"rotten")
        again = await world.start(2)
        assert len(again.ledger.replica.records) == 2
        assert again.ledger.next_seq(again.id) == 4
        await again.enter((first.transport.address,))
        await world.until_equal(first, again)
        assert digests(again) == before

    in_world(tmp_path, story)


def test_training_gives_way_and_nothing_else_does() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    async def story() -> None:
        before, training = niceness(), giving_way()
        expected = max(before, NICENESS) if sys.platform == "linux" else before
        assert await training(niceness) == await training(niceness) == expected
        assert niceness() == await in_thread(niceness) == before

    asyncio.run(story())


def test_a_cancelled_round_is_waited_for() -> None:
    ended = threading.Event()

    def work() -> None:
        begun.set()
        ended.wait(10)

    async def story() -> None:
        task = asyncio.ensure_future(giving_way()(work))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        ended.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    begun = threading.Event()
    asyncio.run(story())
