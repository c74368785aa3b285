"""Sparse spiking language model: neurons, masked layers, its start, its coordinates. No network, no files.

Names are loaded when they are asked for: describing a model and running it event by event need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spikemesh.snn.compiled import prefers_sparse
    from spikemesh.snn.config import VOCAB, ModelConfig
    from spikemesh.snn.files import MODEL_KEY, config_from_file, model_from_file, model_metadata
    from spikemesh.snn.functional import arctan_surrogate, leaky_integral, lif, lif_step
    from spikemesh.snn.inference import EventEngine, Session, engine_loss
    from spikemesh.snn.init import StartSink, initialise, write_start
    from spikemesh.snn.layout import Layout, dense_tensors, model_from_dense, model_from_tensors, to_tensors
    from spikemesh.snn.model import BlockState, ModelState, SpikingLM
    from spikemesh.snn.modules import LIF, AxonDelay, LeakyReadout, MaskedLinear, SparseLinear, balanced_mask
    from spikemesh.snn.plasticity import StdpWindow, neuron_drift, stdp_drift
    from spikemesh.snn.sparsity import SpikeMeter, spike_rates, weight_densities
    from spikemesh.snn.table import LayoutTensor, layout_tensors, start_shapes
    from spikemesh.snn.text import generate, sample

_FILES = {
    "compiled": "prefers_sparse",
    "config": "VOCAB ModelConfig",
    "files": "MODEL_KEY config_from_file model_from_file model_metadata",
    "functional": "arctan_surrogate leaky_integral lif lif_step",
    "inference": "EventEngine Session engine_loss",
    "init": "StartSink initialise write_start",
    "layout": "Layout dense_tensors model_from_dense model_from_tensors to_tensors",
    "model": "BlockState ModelState SpikingLM",
    "modules": "LIF AxonDelay LeakyReadout MaskedLinear SparseLinear balanced_mask",
    "plasticity": "StdpWindow neuron_drift stdp_drift",
    "sparsity": "SpikeMeter spike_rates weight_densities",
    "table": "LayoutTensor layout_tensors start_shapes",
    "text": "generate sample",
}
"""Which file each public name stands in. No name may be that of a file here."""

_FILE_OF = {name: file for file, names in _FILES.items() for name in names.split()}

__all__ = [
    "LIF",
    "MODEL_KEY",
    "VOCAB",
    "AxonDelay",
    "BlockState",
    "EventEngine",
    "Layout",
    "LayoutTensor",
    "LeakyReadout",
    "MaskedLinear",
    "ModelConfig",
    "ModelState",
    "Session",
    "SparseLinear",
    "SpikeMeter",
    "SpikingLM",
    "StartSink",
    "StdpWindow",
    "arctan_surrogate",
    "balanced_mask",
    "config_from_file",
    "dense_tensors",
    "engine_loss",
    "generate",
    "initialise",
    "layout_tensors",
    "leaky_integral",
    "lif",
    "lif_step",
    "model_from_dense",
    "model_from_file",
    "model_from_tensors",
    "model_metadata",
    "neuron_drift",
    "prefers_sparse",
    "sample",
    "spike_rates",
    "start_shapes",
    "stdp_drift",
    "to_tensors",
    "weight_densities",
    "write_start",
]


def __getattr__(name: str) -> object:
    if name in _FILE_OF:
        return getattr(import_module(f"spikemesh.snn.{_FILE_OF[name]}"), name)
    raise AttributeError(f"module 'spikemesh.snn' has no attribute {name!r}")
