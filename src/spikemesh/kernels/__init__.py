"""Compiled loops over plain arrays (C++ by nanobind, no torch inside), each with a NumPy twin."""

from spikemesh.kernels.build import instruction_set, native
from spikemesh.kernels.combine import MAX_INPUTS, MAX_WEIGHT, Counts, Rule, Scan, combine, scan
from spikemesh.kernels.elements import ELEMENTS, Element

__all__ = [
    "ELEMENTS",
    "MAX_INPUTS",
    "MAX_WEIGHT",
    "Counts",
    "Element",
    "Rule",
    "Scan",
    "combine",
    "instruction_set",
    "native",
    "scan",
]
