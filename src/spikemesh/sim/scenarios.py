"""What users of other volunteer systems reported, each as a story that must end well, and one with everything at once.

A story is told with real nodes; it raises `PromiseBroken` where a promise is broken, and ends settled: everybody who is
up holds everything that was acknowledged, with one digest, counted once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from spikemesh.crdt import SyncMessage
from spikemesh.errors import PromiseBroken
from spikemesh.node import GossipConfig, ask
from spikemesh.sim.links import Weather
from spikemesh.sim.swarm import Swarm

Facts = dict[str, float]
Story = Callable[[Swarm, int], Awaitable[Facts]]

HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """`num_nodes` is what it is told with unless somebody asks for another number, at least `min_nodes`."""

    name: str
    story: Story
    num_nodes: int
    min_nodes: int
    weather: Weather = field(default_factory=Weather)
    gossip: GossipConfig = field(default_factory=GossipConfig)

    @property
    def text(self) -> str:
        return (self.story.__doc__ or "").partition("\n")[0]


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    *, num_nodes: int, min_nodes: int = 3, weather: Weather | None = None, gossip: GossipConfig | None = None
) -> Callable[[Story], Story]:
    """Register a story under its function's name."""

    def register(story: Story) -> Story:
        name = getattr(story, "__name__", "").replace("_", "-")
        SCENARIOS[name] = Scenario(
            name=name,
            story=story,
            num_nodes=num_nodes,
            min_nodes=min_nodes,
            weather=weather or Weather(),
            gossip=gossip or GossipConfig(),
        )
        return story

    return register


@scenario(num_nodes=2, min_nodes=2)
async def only_peer_leaves(swarm: Swarm, num_nodes: int) -> Facts:
    """Everybody but one leaves; the one goes on alone, and nothing waits for the others."""
    await begin(swarm, num_nodes)
    await swarm.settle()
    for number in range(1, num_nodes):
        await swarm.crash(number)
    for _ in range(5):
        start_s = swarm.clock.monotonic_s()
        await swarm.publish(0)
        expect(swarm.clock.monotonic_s() == start_s, "a node without peers waited before it acknowledged")
        await swarm.clock.sleep(30.0)
    for number in range(1, num_nodes):
        await swarm.start(number)
    return {"equal_after_s": await swarm.settle()}


@scenario(num_nodes=6)
async def everybody_leaves_during_join(swarm: Swarm, num_nodes: int) -> Facts:
    """Somebody joins, and everybody it could ask is gone in the middle of that; joining ends all the same."""
    old, longest_s = [*range(num_nodes - 1)], 0.0
    await begin(swarm, len(old))
    for _ in range(3):
        await asyncio.gather(*map(swarm.publish, old))
    await swarm.settle()
    for attempt in range(8):
        newcomer, start_s = num_nodes + attempt, swarm.clock.monotonic_s()
        joining = asyncio.ensure_future(swarm.start(newcomer, *old))
        await swarm.clock.sleep(0.05 + 0.15 * attempt)
        for number in old:
            await swarm.crash(number)
        await joining
        longest_s = max(longest_s, swarm.clock.monotonic_s() - start_s)
        await swarm.publish(newcomer)
        await together(swarm, old)
    expect(longest_s <= 120.0, f"joining took {longest_s:.0f} s after everybody had left")
    return {"longest_join_s": longest_s, "equal_after_s": await swarm.settle()}


@scenario(num_nodes=8)
async def flapping_peer(swarm: Swarm, num_nodes: int) -> Facts:
    """One peer dies and comes back every second or two; the others notice nothing."""
    await begin(swarm, num_nodes)
    await swarm.settle()
    stable, flapping, longest_s = [*range(num_nodes - 1)], num_nodes - 1, 0.0
    for turn in range(20):
        await swarm.crash(flapping)
        await swarm.publish(stable[turn % len(stable)])
        longest_s = max(longest_s, await swarm.until_equal(stable, within_s=60.0))
        await swarm.start(flapping, 0)
        await swarm.publish(flapping)
        await swarm.clock.sleep(swarm.rng.uniform(0.0, 1.5))
    expect(longest_s <= 5 * swarm.gossip.period_s, f"a flapping peer held the others up for {longest_s:.1f} s")
    return {"longest_spread_s": longest_s, "equal_after_s": await swarm.settle()}


@scenario(num_nodes=200)
async def newcomer_storm(swarm: Swarm, num_nodes: int) -> Facts:
    """One volunteer's run gets known, and everybody else comes at once, to this one door."""
    await swarm.start(0)
    for _ in range(20):
        await swarm.publish(0)
    start_s = swarm.clock.monotonic_s()
    await asyncio.gather(*(swarm.start(number, 0) for number in range(1, num_nodes)))
    joined_s = swarm.clock.monotonic_s() - start_s
    await asyncio.gather(*(swarm.publish(number) for number in range(0, num_nodes, 10)))
    settled_s = await swarm.settle()
    snapshots = sum(swarm.node(number).started_from_snapshot for number in range(1, num_nodes))
    return {"all_joined_s": joined_s, "snapshots": snapshots, "equal_after_s": settled_s}


@scenario(num_nodes=5, gossip=GossipConfig(period_s=1800.0))
async def week_offline(swarm: Swarm, num_nodes: int) -> Facts:
    """One volunteer is away for a week in which the others go on; it has published before anybody saw it."""
    await begin(swarm, num_nodes)
    await swarm.settle(within_s=20 * HOUR_S)
    away, others = num_nodes - 1, [*range(num_nodes - 1)]
    swarm.links.cut(swarm.ids([away]))
    swarm.links.mute.update(swarm.ids([away]))
    await swarm.publish(away)
    await swarm.crash(away)
    swarm.links.heal()
    for _ in range(7 * 24 // 2):
        await swarm.clock.sleep(2 * HOUR_S)
        await swarm.publish(swarm.rng.choice(others))
    await swarm.start(away)
    return {"equal_after_s": await swarm.settle(within_s=2 * HOUR_S)}


@scenario(num_nodes=40, min_nodes=4)
async def split_brain(swarm: Swarm, num_nodes: int) -> Facts:
    """The network falls into two halves for half of the run; both train on, and join again in a few periods."""
    await begin(swarm, num_nodes)
    await swarm.settle()
    halves = [*range(0, num_nodes, 2)], [*range(1, num_nodes, 2)]
    for is_cut in (False, True, True, False):
        if is_cut:
            swarm.links.cut(*map(swarm.ids, halves))
        else:
            swarm.links.heal()
        for _ in range(4):
            await asyncio.gather(*(swarm.publish(swarm.rng.choice(half)) for half in halves))
            await swarm.clock.sleep(5 * swarm.gossip.period_s)
        if is_cut:
            await asyncio.gather(*(swarm.until_equal(half) for half in halves))
    return {"equal_after_s": await swarm.settle()}


@scenario(num_nodes=10, weather=Weather(duplication=1.0))
async def hot_duplicate(swarm: Swarm, num_nodes: int) -> Facts:
    """Every request arrives twice, and one peer sends the same contribution a thousand times; it counts once."""
    await begin(swarm, num_nodes)
    await swarm.publish(0)
    replica = swarm.node(0).ledger.replica
    again = SyncMessage(
        set_digest=replica.records.digest,
        sum_digest=replica.sum.digest,
        records=tuple(record.wire for record in replica.records),
    )
    await swarm.settle()
    fetched = [swarm.node(number).admission.num_deltas_fetched for number in range(num_nodes)]
    transport = swarm.node(0).transport
    for _ in range(1000 // num_nodes):
        await asyncio.gather(*(ask(transport, peer, again, SyncMessage) for peer in swarm.node(0).peers.addresses()))
    for number in range(num_nodes):
        again_fetched = swarm.node(number).admission.num_deltas_fetched - fetched[number]
        expect(again_fetched == 0, f"node {number} fetched {again_fetched} deltas that it had")
    return {"equal_after_s": await swarm.settle()}


@scenario(num_nodes=10, min_nodes=4)
async def slow_blob_owner_dies(swarm: Swarm, num_nodes: int) -> Facts:
    """The one who holds a delta is slow, and dies while the others fetch it; nobody waits, and it is not lost."""
    await begin(swarm, num_nodes)
    await swarm.settle()
    owner, others = 0, [*range(1, num_nodes)]
    swarm.links.slow_s[swarm.ids([owner])[0]] = 4.0
    for _ in range(8):
        await swarm.publish(owner)
    await swarm.clock.sleep(6.0)
    record = await swarm.publish(1)
    spread_s = await swarm.until(
        lambda: swarm.num_holding(record, 1) >= len(others), within_s=60.0, what="news past a slow owner"
    )
    expect(spread_s <= 5 * swarm.gossip.period_s, f"a slow peer held up the news of others for {spread_s:.1f} s")
    await swarm.crash(owner)
    await swarm.publish(2)
    await swarm.until_equal(others)
    swarm.links.heal()
    await swarm.start(owner, 1)
    return {"spread_beside_it_s": spread_s, "equal_after_s": await swarm.settle()}


@scenario(num_nodes=12)
async def one_way_links(swarm: Swarm, num_nodes: int) -> Facts:
    """A third of the nodes hear everything and are heard by nobody; the others are not held up."""
    await begin(swarm, num_nodes)
    await swarm.settle()
    unheard, heard = [*range(num_nodes // 3)], [*range(num_nodes // 3, num_nodes)]
    swarm.links.mute.update(swarm.ids(unheard))
    for _ in range(5):
        await asyncio.gather(swarm.publish(unheard[0]), swarm.publish(heard[0]))
        await swarm.clock.sleep(5 * swarm.gossip.period_s)
    spread_s = await swarm.until_equal(heard)
    swarm.links.heal()
    return {"spread_among_heard_s": spread_s, "equal_after_s": await swarm.settle()}


@scenario(
    num_nodes=1000,
    min_nodes=20,
    weather=Weather(loss=0.3, duplication=0.3, delay_s=(0.01, 0.4)),
    gossip=GossipConfig(period_s=5.0),
)
async def chaos(swarm: Swarm, num_nodes: int) -> Facts:
    """30 % loss, 30 % duplication, reordering, two partitions and 10 % churn, while everybody is still joining."""
    everybody, period_s = [*range(num_nodes)], swarm.gossip.period_s
    starting = [asyncio.ensure_future(begin(swarm, num_nodes, publishing=0))]
    await swarm.clock.sleep(2 * period_s)
    for sides in (2, 3):
        swarm.rng.shuffle(everybody)
        swarm.links.cut(*(swarm.ids(everybody[side::sides]) for side in range(sides)))
        victims = swarm.rng.sample(everybody, num_nodes // 20)
        await asyncio.gather(*map(swarm.crash, victims))
        await asyncio.gather(*map(swarm.publish, swarm.rng.sample(swarm.up, max(3, num_nodes // 200))))
        await swarm.clock.sleep(3 * period_s)
        starting.append(asyncio.ensure_future(together(swarm, victims)))
        swarm.links.heal()
        await swarm.clock.sleep(period_s)
    settled_s = await swarm.settle()
    await asyncio.gather(*starting)
    return {"equal_after_s": settled_s}


async def begin(swarm: Swarm, num_nodes: int, publishing: int | None = None) -> None:
    """All come at once; each was given three others, which connects them all. The first ones have published."""
    contacts = [swarm.rng.sample(range(number), min(3, number)) for number in range(num_nodes)]
    await asyncio.gather(*(swarm.start(number, *known) for number, known in enumerate(contacts)))
    await asyncio.gather(*map(swarm.publish, range(num_nodes if publishing is None else publishing)))


async def together(swarm: Swarm, numbers: list[int]) -> None:
    """These come back, all at once."""
    await asyncio.gather(*map(swarm.start, numbers))


def expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise PromiseBroken(otherwise)
