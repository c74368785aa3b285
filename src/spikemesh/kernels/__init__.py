"""Compiled loops over plain arrays (C++ by nanobind, no torch inside), each with a NumPy twin."""

from spikemesh.kernels.dispatch import instruction_set, native
from spikemesh.kernels.merge.combine import MAX_INPUTS, MAX_WEIGHT, Counts, Rule, Scan, combine, scan
from spikemesh.kernels.merge.elements import ELEMENTS, Element
from spikemesh.kernels.merge.products import MAX_INTEGER, Factors, ProductCounts, add_products
from spikemesh.kernels.merge.widen import Reals, widen
from spikemesh.kernels.spiking.currents import currents_backward, currents_forward
from spikemesh.kernels.spiking.draw import draw_columns, draw_normals
from spikemesh.kernels.spiking.events import NUM_LANES, EventNetwork, Events, EventState, Population, Synapses, Weights
from spikemesh.kernels.spiking.lif import lif_backward, lif_forward
from spikemesh.kernels.spiking.settle import Incoming, Settling, settle
from spikemesh.kernels.spiking.sparse import Pattern
from spikemesh.kernels.spiking.spikes import count_spikes, delay_spikes, num_bit_bytes, unpack_spikes

__all__ = [
    "ELEMENTS",
    "MAX_INPUTS",
    "MAX_INTEGER",
    "MAX_WEIGHT",
    "NUM_LANES",
    "Counts",
    "Element",
    "EventNetwork",
    "EventState",
    "Events",
    "Factors",
    "Incoming",
    "Pattern",
    "Population",
    "ProductCounts",
    "Reals",
    "Rule",
    "Scan",
    "Settling",
    "Synapses",
    "Weights",
    "add_products",
    "combine",
    "count_spikes",
    "currents_backward",
    "currents_forward",
    "delay_spikes",
    "draw_columns",
    "draw_normals",
    "instruction_set",
    "lif_backward",
    "lif_forward",
    "native",
    "num_bit_bytes",
    "scan",
    "settle",
    "unpack_spikes",
    "widen",
]
