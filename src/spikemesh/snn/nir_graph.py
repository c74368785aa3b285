"""A model as a graph of the Neuromorphic Intermediate Representation (Pedersen et al. 2024), for other tools and chips.

One token is one step of `dt` seconds. NIR's neurons are differential equations; stepped by forward Euler they are ours:

    NIR     tau dv/dt = (v_leak - v) + r * x,   spike if v > v_threshold, then v = v_reset
    step    v' = v + dt/tau * (v_leak - v + r * x)
    ours    v' = leak * v + x,                  spike if v' >= threshold, then v = 0

so  tau = dt / (1 - leak),  r = 1 / (1 - leak),  v_leak = v_reset = 0, and v_threshold is the largest float32 below our
threshold: for float32 potentials, "above it" is "at or above ours".

`nir_graph` says the whole model. A byte is a spike on one of 256 input lines; the embedding is a Linear node for every
input delay, a Delay node before it; a sum is several edges into one node; axonal delays are Delay nodes; the readout is
an LI node and, for the bias, an Affine one.

`nir_core` says the spiking core in what every importer takes: Linear nodes, and LIF nodes whose neurons are all alike,
so neurons that differ are separate nodes inside the subgraph of their population. Delays lie outside: see there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from spikemesh.errors import InvalidData, SpikemeshError
from spikemesh.snn.config import VOCAB, ModelConfig, check_tensors
from spikemesh.snn.files import MODEL_KEY
from spikemesh.snn.inference import sigmoid

Tensors = Mapping[str, npt.NDArray[Any]]
Floats = npt.NDArray[np.floating[Any]]
Nodes = dict[str, Any]
Edges = list[tuple[str, str]]

DEFAULT_DT = 1e-4
"""Seconds of one token: what NIR's importers assume unless told otherwise."""
STEP_KEY = "spikemesh.step"
OUTPUTS_KEY = "spikemesh.outputs"
MAX_CORE_NEURONS = 1 << 13


def nir_graph(config: ModelConfig, tensors: Tensors, *, dt: float = DEFAULT_DT) -> Any:
    """A `nir.NIRGraph` of the model: spikes [256] in, one line for each byte, logits [256] of the next byte out.

    Raises `InvalidData` for tensors that do not fit `config`, or a leak of 1, which has no tau.
    """
    nir = _nir()
    check_tensors(config, tensors)
    nodes: Nodes = {"input": nir.Input(input_type={"input": np.array([VOCAB])})}
    edges: Edges = []
    sources = _input_currents(config, tensors, dt, nodes, edges)
    for b in range(config.num_blocks):
        _add(nodes, edges, f"stream_{b}", _lif(tensors, f"blocks.{b}.stream", dt), *sources)
        last = f"stream_{b}"
        if config.num_axon_delays > 1:
            _add(nodes, edges, f"axons_{b}", nir.Delay(delay=axon_delays(config) * dt), last)
            last = f"axons_{b}"
        _add(nodes, edges, f"w_in_{b}", nir.Linear(weight=tensors[f"blocks.{b}.w_in.weight"]), last)
        _add(nodes, edges, f"hidden_{b}", _lif(tensors, f"blocks.{b}.hidden", dt), f"w_in_{b}")
        _add(nodes, edges, f"w_out_{b}", nir.Linear(weight=tensors[f"blocks.{b}.w_out.weight"]), f"hidden_{b}")
        sources.append(f"w_out_{b}")
    _add(nodes, edges, "output_neurons", _lif(tensors, "output", dt), *sources)
    heads = []
    read = [*(f"hidden_{b}" for b in range(config.num_blocks)), "output_neurons"]
    places = np.cumsum([config.hidden] * config.num_blocks)
    for name, part in zip(read, np.split(tensors["head.weight"], places, axis=1), strict=True):
        _add(nodes, edges, f"head_of_{name}", nir.Linear(weight=np.ascontiguousarray(part)), name)
        heads.append(f"head_of_{name}")
    tau, r = _time_constants(tensors, "readout", dt)
    _add(nodes, edges, "readout", nir.LI(tau=tau, r=r, v_leak=np.zeros(VOCAB)), *heads)
    bias = nir.Affine(weight=np.eye(VOCAB, dtype=np.float32), bias=tensors["readout.bias"])
    _add(nodes, edges, "logits", bias, "readout")
    _add(nodes, edges, "output", nir.Output(output_type={"output": np.array([VOCAB])}), "logits")
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata=_metadata(config, dt))


def nir_core(config: ModelConfig, tensors: Tensors, *, dt: float = DEFAULT_DT) -> Any:
    """A `nir.NIRGraph` of the spiking core: currents of a token in, the spikes of all populations out.

    In: the input currents [D]; then, if there are axonal delays, for each block the spikes [D] of its stream population
    that arrive now from earlier tokens (0 for axons without delay, which the graph connects itself).
    Out: the spikes of every population, in the order of `population_names`.

    Embedding, delays and readout are left to whoever runs it. Raises as `nir_graph`, also for a leak of 0.
    """
    nir = _nir()
    check_tensors(config, tensors)
    width = config.width
    num_neurons = config.num_blocks * (width + config.hidden) + width
    if num_neurons > MAX_CORE_NEURONS:
        raise SpikemeshError(
            f"expected a core of at most {MAX_CORE_NEURONS} neurons, got {num_neurons}: nodes that put neurons side "
            "by side grow with the square of that. Take the format nir"
        )
    num_late = config.num_blocks if config.num_axon_delays > 1 else 0
    num_inputs = width * (1 + num_late)
    nodes: Nodes = {"input": nir.Input(input_type={"input": np.array([num_inputs])})}
    edges: Edges = []
    sources = ["input"]
    if num_late:
        _add(nodes, edges, "currents", nir.Linear(weight=_places(range(width), num_inputs)), "input")
        sources = ["currents"]
    populations: dict[str, int] = {}

    def population(name: str, stored: str, *currents: str) -> None:
        populations[name] = len(tensors[f"{stored}.threshold"])
        _add(nodes, edges, name, _uniform_population(tensors, stored, dt), *currents)

    for b in range(config.num_blocks):
        population(f"stream_{b}", f"blocks.{b}.stream", *sources)
        arriving = [f"stream_{b}"]
        if num_late:
            at_once = np.diag(axon_delays(config) == 0).astype(np.float32)
            _add(nodes, edges, f"at_once_{b}", nir.Linear(weight=at_once), f"stream_{b}")
            late = _places(range(width * (1 + b), width * (2 + b)), num_inputs)
            _add(nodes, edges, f"late_{b}", nir.Linear(weight=late), "input")
            arriving = [f"at_once_{b}", f"late_{b}"]
        _add(nodes, edges, f"w_in_{b}", nir.Linear(weight=tensors[f"blocks.{b}.w_in.weight"]), *arriving)
        population(f"hidden_{b}", f"blocks.{b}.hidden", f"w_in_{b}")
        _add(nodes, edges, f"w_out_{b}", nir.Linear(weight=tensors[f"blocks.{b}.w_out.weight"]), f"hidden_{b}")
        sources.append(f"w_out_{b}")
    population("output_neurons", "output", *sources)
    _join(nodes, edges, populations)
    metadata = _metadata(config, dt) | {OUTPUTS_KEY: json.dumps(populations)}
    return nir.NIRGraph(*_numbered(nodes, edges), metadata=metadata)


def axon_delays(config: ModelConfig) -> npt.NDArray[np.int64]:
    """How many tokens late the spikes of each neuron of a stream population are, [D]; see `AxonDelay`."""
    bounds = [config.width * k // config.num_axon_delays for k in range(config.num_axon_delays + 1)]
    return np.repeat(np.arange(config.num_axon_delays), np.diff(bounds))


def _nir() -> Any:
    try:
        import nir
    except ImportError as error:
        raise SpikemeshError("NIR graphs need the package nir: pip install 'spikemesh[nir]'") from error
    return nir


def _metadata(config: ModelConfig, dt: float) -> dict[str, Any]:
    step = f"one token is dt = {dt} s; forward Euler: v += dt / tau * (v_leak - v + r * x)"
    return {MODEL_KEY: json.dumps(config.to_dict(), sort_keys=True), STEP_KEY: step}


def _add(nodes: Nodes, edges: Edges, name: str, node: Any, *sources: str) -> None:
    nodes[name] = node
    edges.extend((source, name) for source in sources)


def _input_currents(config: ModelConfig, tensors: Tensors, dt: float, nodes: Nodes, edges: Edges) -> list[str]:
    """One Linear node for each input delay; their sum is the currents."""
    nir, names = _nir(), []
    for k in range(config.num_input_delays):
        last = "input"
        if k:
            _add(nodes, edges, f"delay_{k}", nir.Delay(delay=np.full(VOCAB, k * dt)), "input")
            last = f"delay_{k}"
        weight = tensors["delay_mix"][k][:, None] * tensors["embedding"].T
        _add(nodes, edges, f"embedding_{k}", nir.Linear(weight=np.ascontiguousarray(weight)), last)
        names.append(f"embedding_{k}")
    return names


def _time_constants(tensors: Tensors, name: str, dt: float) -> tuple[Floats, Floats]:
    """tau and r, in double precision: 1 - dt / tau is then the leak again, to the bit of its float32."""
    leak = sigmoid(tensors[f"{name}.leak_logit"]).astype(np.float64)
    if bool((leak >= 1).any()):
        raise InvalidData(f"expected leaks below 1 in {name}, got 1: a membrane that never leaks has no tau in NIR")
    return dt / (1 - leak), 1 / (1 - leak)


def _lif(tensors: Tensors, name: str, dt: float) -> Any:
    tau, r = _time_constants(tensors, name, dt)
    threshold = np.nextafter(tensors[f"{name}.threshold"], np.float32(-np.inf)).astype(np.float64)
    return _nir().LIF(tau=tau, r=r, v_leak=np.zeros_like(tau), v_threshold=threshold, v_reset=np.zeros_like(tau))


def _uniform_population(tensors: Tensors, name: str, dt: float) -> Any:
    """A LIF node if all neurons are alike, else a subgraph with one node for each kind of neuron.

    Kinds gather their currents from the population's, and their spikes are put in place and added up again.
    """
    nir, whole = _nir(), _lif(tensors, name, dt)
    if bool((whole.tau <= dt).any()):
        raise InvalidData(f"expected leaks above 0 in {name}, got 0: importers want tau above dt")
    kinds, kind_of = np.unique(np.stack([whole.tau, whole.v_threshold], axis=1), axis=0, return_inverse=True)
    if len(kinds) == 1:
        return whole
    size = len(whole.tau)
    nodes: Nodes = {"input": nir.Input(input_type={"input": np.array([size])})}
    edges: Edges = []
    for kind in range(len(kinds)):
        alike = np.flatnonzero(kind_of.reshape(-1) == kind)
        places = _places(alike, size)
        parts = {key: getattr(whole, key)[alike] for key in ("tau", "r", "v_leak", "v_threshold", "v_reset")}
        _add(nodes, edges, f"gather_{kind}", nir.Linear(weight=places), "input")
        _add(nodes, edges, f"neurons_{kind}", nir.LIF(**parts), f"gather_{kind}")
        _add(nodes, edges, f"scatter_{kind}", nir.Linear(weight=np.ascontiguousarray(places.T)), f"neurons_{kind}")
    everyone = [f"scatter_{kind}" for kind in range(len(kinds))]
    _add(nodes, edges, "spikes", nir.Linear(weight=np.eye(size, dtype=np.float32)), *everyone)
    _add(nodes, edges, "output", nir.Output(output_type={"output": np.array([size])}), "spikes")
    return nir.NIRGraph(nodes=nodes, edges=edges)


def _numbered(nodes: Nodes, edges: Edges) -> tuple[Nodes, Edges]:
    """The same with names whose alphabetical order is that of the graph.

    A NIR file lists its nodes by name, and nirtorch 2.6, which importers build on, fails on a subgraph that stands
    before what leads to it.
    """
    names = {name: f"n{number:03}_{name}" for number, name in enumerate(nodes)}
    named = {names[name]: node for name, node in nodes.items()}
    return named, [(names[source], names[target]) for source, target in edges]


def _places(chosen: Any, size: int) -> npt.NDArray[np.float32]:
    """Zeros and ones [chosen, size] that pick out some elements of a vector."""
    indices = np.asarray(chosen)
    places = np.zeros((len(indices), size), np.float32)
    places[np.arange(len(indices)), indices] = 1
    return places


def _join(nodes: Nodes, edges: Edges, populations: Mapping[str, int]) -> None:
    """All populations side by side as the output; importers add up what meets in a node, but not in an output."""
    nir, total, start = _nir(), sum(populations.values()), 0
    for name, size in populations.items():
        place = np.ascontiguousarray(_places(range(start, start + size), total).T)
        _add(nodes, edges, f"place_{name}", nir.Linear(weight=place), name)
        start += size
    eye = nir.Linear(weight=np.eye(total, dtype=np.float32))
    _add(nodes, edges, "spikes", eye, *(f"place_{name}" for name in populations))
    _add(nodes, edges, "output", nir.Output(output_type={"output": np.array([total])}), "spikes")
