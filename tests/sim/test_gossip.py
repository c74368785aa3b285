"""What gossip owes a swarm, seen in the simulator: with comparisons half an hour apart, only pushes carry news."""

from __future__ import annotations

import pytest
from blake3 import blake3

from spikemesh.node import GossipConfig
from spikemesh.sim import Swarm, Weather, run_virtually, scenarios
from spikemesh.sim.run import contribution

SELDOM = GossipConfig(period_s=1800.0)


def test_news_wait_for_the_end_of_a_talk_and_are_not_dropped() -> None:
    async def story() -> None:
        async with Swarm(gossip=SELDOM, weather=Weather(delay_s=(0.5, 0.5))) as swarm:
            await swarm.start(0)
            await swarm.start(1, 0)
            await swarm.publish(1)  # who has nothing is sent everything
            await swarm.until_equal(within_s=20)
            await swarm.clock.sleep(5.0)
            await swarm.publish(0)
            await swarm.clock.sleep(1.2)  # the record is on its way, and no more rows will be told in this talk
            record, delta = contribution(7, 1)
            await swarm.node(0).publish(record, {blake3(delta).digest(): delta})
            await swarm.until_equal(within_s=10)
            assert record in swarm.node(1).ledger.replica.records

    run_virtually(story())


@pytest.mark.long
def test_a_push_says_what_is_new_and_nothing_else() -> None:
    """In a crowd of authors, a record costs its receiver a few hundred bytes beside itself."""

    async def story() -> None:
        async with Swarm(gossip=SELDOM, meter=True) as swarm:
            await scenarios.begin(swarm, 60)
            await swarm.clock.sleep(20 * SELDOM.period_s)  # until everybody has met many
            swarm.traffic.reset()
            record = await swarm.publish(3)
            await swarm.until(lambda: swarm.num_holding(record, 3) >= 50, within_s=20, what="a push to most")
            assert swarm.traffic.control_bytes / 50 < 2500
            assert swarm.traffic.repeated_bytes < 3 * swarm.traffic.payload_bytes

    run_virtually(story())


def test_a_delta_that_does_not_come_holds_up_no_other() -> None:
    async def story() -> None:
        async with Swarm(gossip=SELDOM) as swarm:
            for number in range(3):
                await swarm.start(number, *range(number))
            taking = swarm.node(2)
            await swarm.publish(0)
            while not taking.admission._in_flight:
                await swarm.clock.sleep(0.01)
            swarm.links.mute.update(swarm.ids([0]))  # the record is there, and its delta never comes
            record = await swarm.publish(1)
            took_s = await swarm.until(lambda: swarm.num_holding(record, 1) >= 2, within_s=30, what="a push")
            assert swarm.node(2).admission._in_flight and took_s <= 3.0

    run_virtually(story())
