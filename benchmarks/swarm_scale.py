"""A swarm from ten to ten thousand nodes: how fast news spread, what that repeats, and what silence costs.

Real node code in the simulator, a clean network with 10 to 200 ms of delay. Every node is an author with a contribution
in the common history, as if all had taken the same snapshot, and knows a few random peers. First nothing happens for a
few periods; then a few volunteers publish, each somewhere in one period. Payload is signed records and deltas; control
is every other byte of a request or a reply. Nodes that hold equal record sets share one copy of them in memory; each
verifies, folds and stores for itself. Takes about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from harness import RESULTS, Report
from spikemesh.node import WINDOW_BYTES, Ledger
from spikemesh.sim import Swarm, run_virtually
from spikemesh.sim.disk import MemoryStore
from spikemesh.sim.run import GENESIS, RUN_ID, THETA0, contribution, make_delta, peer_id
from spikemesh.sim.swarm import Member
from spikemesh.transport import PeerAddress

SIZES = (10, 30, 100, 300, 1000, 3000, 10_000)
NUM_RECORDS = 8
KNOWN_PEERS = 20
WARM_PERIODS = 6
IDLE_PERIODS = 4
BUSY_PERIODS = 5
SHARE = 0.99
LOOK_S = 0.1
MAX_PERIODS = 60


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of one swarm. Bytes are per node; periods are of gossip."""

    num_nodes: int
    slowest_periods: float
    median_periods: float
    repeated: float
    payload_bytes: float
    idle_bytes: float
    busy_bytes: float
    cpu_s: float


async def measure(num_nodes: int, seed: int) -> Measured:
    start_s = time.process_time()
    async with Swarm(seed=seed, meter=True) as swarm:
        period_s = swarm.gossip.period_s
        await settled_swarm(swarm, num_nodes)
        await swarm.clock.sleep(WARM_PERIODS * period_s)
        swarm.traffic.reset()
        await swarm.clock.sleep(IDLE_PERIODS * period_s)
        idle_bytes = swarm.traffic.control_bytes / IDLE_PERIODS / num_nodes
        swarm.traffic.reset()
        authors = swarm.rng.sample(range(num_nodes), min(NUM_RECORDS, num_nodes))
        busy = asyncio.ensure_future(busy_bytes(swarm))
        spreads_s = await asyncio.gather(*(spread(swarm, author) for author in authors))
        await swarm.settle()
        busy_total, traffic = await busy, swarm.traffic
        return Measured(
            num_nodes=num_nodes,
            slowest_periods=max(spreads_s) / period_s,
            median_periods=sorted(spreads_s)[len(spreads_s) // 2] / period_s,
            repeated=traffic.repeated_bytes / traffic.payload_bytes,
            payload_bytes=traffic.payload_bytes / num_nodes,
            idle_bytes=idle_bytes,
            busy_bytes=busy_total / num_nodes,
            cpu_s=time.process_time() - start_s,
        )


async def settled_swarm(swarm: Swarm, num_nodes: int) -> None:
    """Everybody is up, has the same history with everybody in it, and knows a few others."""
    delta = make_delta(0)
    records = [contribution(number, 1, delta=delta)[0] for number in range(num_nodes)]
    first = Ledger.open(MemoryStore(), GENESIS, RUN_ID, THETA0)
    first.insert(records, {blake3(delta).digest(): delta})
    for record in records:
        swarm.history.acknowledge(record, delta)
    for number in range(num_nodes):
        member = swarm.members[number] = Member(number)
        node = await swarm.open(member, Ledger(member.store, GENESIS, RUN_ID, THETA0, first.replica, WINDOW_BYTES))
        for known in swarm.rng.sample(range(num_nodes), min(KNOWN_PEERS, num_nodes)):
            node.peers.learn(PeerAddress(id=peer_id(known)))


async def spread(swarm: Swarm, author: int) -> float:
    """Publish some time within a period; virtual seconds until 99 % of all nodes hold the record."""
    period_s, wanted = swarm.gossip.period_s, math.ceil(SHARE * len(swarm.members))
    await swarm.clock.sleep(random.Random(author).uniform(0.0, period_s))
    record_id, start_s = await swarm.publish(author), swarm.clock.monotonic_s()
    while swarm.num_holding(record_id, author) < wanted:
        await swarm.clock.sleep(LOOK_S)
        if swarm.clock.monotonic_s() - start_s > MAX_PERIODS * period_s:
            return math.inf
    return swarm.clock.monotonic_s() - start_s


async def busy_bytes(swarm: Swarm) -> float:
    """Control bytes per period of the whole swarm, in the periods in which news spread."""
    await swarm.clock.sleep(BUSY_PERIODS * swarm.gossip.period_s)
    return swarm.traffic.control_bytes / BUSY_PERIODS


def tell(report: Report, m: Measured) -> None:
    name, per = f"nodes{m.num_nodes}", "bytes per node and period"
    bound = 1.5 * math.log2(m.num_nodes)
    report.at_most(
        f"{name}.periods_to_99", m.slowest_periods, "gossip periods", bar=bound, against="1.5 log2(N), slowest of 8"
    )
    report.fact(f"{name}.median_periods_to_99", m.median_periods, "gossip periods", against="the slowest of 8")
    report.at_most(
        f"{name}.repeated", m.repeated, "times the payload", bar=3.0, against="payload each node had already"
    )
    report.fact(f"{name}.payload", m.payload_bytes, "bytes per node", against="records and deltas, once each")
    report.fact(f"{name}.control_idle", m.idle_bytes, per, against="nothing is published")
    report.fact(f"{name}.control_busy", m.busy_bytes, per, against="8 records in 5 periods")
    report.fact(f"{name}.cpu", m.cpu_s, "s", against="one core")


def tell_growth(report: Report, measured: Sequence[Measured]) -> None:
    """Flat: from a hundred nodes on, when tables of peers are no longer filled by knowing everybody."""
    large = [m for m in measured if m.num_nodes >= 100]
    if len(large) < 2:
        return
    span = f"{large[-1].num_nodes} nodes against {large[0].num_nodes}"
    for name, first, last in (
        ("idle", large[0].idle_bytes, large[-1].idle_bytes),
        ("busy", large[0].busy_bytes, large[-1].busy_bytes),
    ):
        report.at_most(f"growth.control_{name}", last / first, "times", bar=1.5, against=span)


def plot(measured: Sequence[Measured], path: Path) -> None:
    from matplotlib.figure import Figure

    sizes = [m.num_nodes for m in measured]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    spreading, repeats, control = figure.subplots(1, 3)
    spreading.plot(sizes, [1.5 * math.log2(n) for n in sizes], "--", color="gray", label="bar: 1.5 log2(N)")
    spreading.plot(sizes, [m.slowest_periods for m in measured], "o-", label="slowest of 8 records")
    spreading.plot(sizes, [m.median_periods for m in measured], "o-", label="median")
    spreading.set(title="A record reaches 99 % of the nodes", ylabel="gossip periods")
    repeats.axhline(3.0, ls="--", color="gray", label="bar: 3")
    repeats.plot(sizes, [m.repeated for m in measured], "o-", label="records and deltas a node had already")
    repeats.set(title="Repeated payload", ylabel="times the payload", ylim=(0, 3.3))
    control.plot(sizes, [m.idle_bytes for m in measured], "o-", label="nothing new")
    control.plot(sizes, [m.busy_bytes for m in measured], "o-", label="8 records in 5 periods")
    control.set(title="Control traffic", ylabel="bytes per node and period", ylim=(0, None))
    for axes in (spreading, repeats, control):
        axes.set(xscale="log", xlabel="nodes")
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--seed", type=int, default=0)
    report = Report(__file__, parser=parser)
    measured = []
    for num_nodes in report.arguments.nodes:
        measured.append(run_virtually(measure(num_nodes, report.arguments.seed)))
        tell(report, measured[-1])
    tell_growth(report, measured)
    if report.arguments.commit:
        plot(measured, RESULTS / "swarm_scale.svg")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
