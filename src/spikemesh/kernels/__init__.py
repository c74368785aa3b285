"""Compiled loops over plain arrays (C++ by nanobind, no torch inside), each with a NumPy twin."""

from spikemesh.kernels.build import instruction_set, native
from spikemesh.kernels.combine import MAX_INPUTS, MAX_WEIGHT, Counts, Rule, Scan, combine, scan
from spikemesh.kernels.elements import ELEMENTS, Element
from spikemesh.kernels.events import NUM_LANES, EventNetwork, Events, EventState, Population, Synapses, Weights

__all__ = [
    "ELEMENTS",
    "MAX_INPUTS",
    "MAX_WEIGHT",
    "NUM_LANES",
    "Counts",
    "Element",
    "EventNetwork",
    "EventState",
    "Events",
    "Population",
    "Rule",
    "Scan",
    "Synapses",
    "Weights",
    "combine",
    "instruction_set",
    "native",
    "scan",
]
