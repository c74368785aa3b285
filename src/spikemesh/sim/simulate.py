"""One scenario, one seed, one outcome: to the bit, on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spikemesh.errors import PromiseBroken
from spikemesh.sim.clock import run_virtually
from spikemesh.sim.scenarios import SCENARIOS, Scenario
from spikemesh.sim.swarm import Swarm


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a simulated swarm did and ended with. `trace` is a digest over everything that happened, in order."""

    scenario: str
    num_nodes: int
    seed: int
    virtual_s: float
    num_acknowledged: int
    num_crashes: int
    num_requests: int
    num_lost_messages: int
    set_digest: str
    sum_digest: str
    trace: str
    facts: Mapping[str, float]


def simulate(name: str, *, num_nodes: int | None = None, seed: int = 0) -> Outcome:
    """Tell a scenario. `PromiseBroken` says what went wrong and how to see it again; `ValueError` if there is none."""
    scenario = SCENARIOS.get(name)
    if scenario is None:
        raise ValueError(f"there is no scenario {name!r}; there are {', '.join(SCENARIOS)}")
    count = scenario.num_nodes if num_nodes is None else num_nodes
    if count < scenario.min_nodes:
        raise ValueError(f"the scenario {name} needs at least {scenario.min_nodes} nodes, got {count}")
    try:
        return run_virtually(_tell(scenario, count, seed))
    except PromiseBroken as error:
        again = f"spikemesh simulate --scenario {name} --nodes {count} --seed {seed}"
        raise PromiseBroken(f"{error}. See it again with: {again}") from error


async def _tell(scenario: Scenario, num_nodes: int, seed: int) -> Outcome:
    async with Swarm(seed=seed, weather=scenario.weather, gossip=scenario.gossip) as swarm:
        facts = await scenario.story(swarm, num_nodes)
        end = swarm.node(swarm.up[0]).ledger.replica
        history = swarm.history
        return Outcome(
            scenario=scenario.name,
            num_nodes=num_nodes,
            seed=seed,
            virtual_s=swarm.clock.monotonic_s(),
            num_acknowledged=len(history.acknowledged),
            num_crashes=history.counts["crash"],
            num_requests=history.counts["request"],
            num_lost_messages=swarm.links.num_lost,
            set_digest=end.records.digest.hex(),
            sum_digest=end.sum.digest.hex(),
            trace=history.trace,
            facts=facts,
        )
