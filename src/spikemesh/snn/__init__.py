"""Sparse spiking language model: neurons, masked layers, its start, its coordinates. No network, no files."""

from spikemesh.snn.compiled import prefers_sparse
from spikemesh.snn.files import MODEL_KEY, model_from_file, model_metadata
from spikemesh.snn.functional import arctan_surrogate, leaky_integral, lif, lif_step
from spikemesh.snn.generate import generate, sample
from spikemesh.snn.init import initialise
from spikemesh.snn.layout import Layout, LayoutTensor, dense_tensors, model_from_dense, model_from_tensors, to_tensors
from spikemesh.snn.model import VOCAB, BlockState, ModelConfig, ModelState, SpikingLM
from spikemesh.snn.modules import LIF, AxonDelay, LeakyReadout, MaskedLinear, SparseLinear, balanced_mask
from spikemesh.snn.plasticity import StdpWindow, neuron_drift, stdp_drift
from spikemesh.snn.sparsity import SpikeMeter, spike_rates, weight_densities

__all__ = [
    "LIF",
    "MODEL_KEY",
    "VOCAB",
    "AxonDelay",
    "BlockState",
    "Layout",
    "LayoutTensor",
    "LeakyReadout",
    "MaskedLinear",
    "ModelConfig",
    "ModelState",
    "SparseLinear",
    "SpikeMeter",
    "SpikingLM",
    "StdpWindow",
    "arctan_surrogate",
    "balanced_mask",
    "dense_tensors",
    "generate",
    "initialise",
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
    "stdp_drift",
    "to_tensors",
    "weight_densities",
]
