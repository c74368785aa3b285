"""Thousands of nodes in one process: real node code on a virtual clock, simulated links, a history and its checker."""

from spikemesh.sim.clock import VirtualClock, run_virtually
from spikemesh.sim.history import History
from spikemesh.sim.links import Links, Weather
from spikemesh.sim.scenarios import SCENARIOS, Scenario
from spikemesh.sim.simulate import Outcome, simulate
from spikemesh.sim.swarm import Swarm

__all__ = [
    "SCENARIOS",
    "History",
    "Links",
    "Outcome",
    "Scenario",
    "Swarm",
    "VirtualClock",
    "Weather",
    "run_virtually",
    "simulate",
]
