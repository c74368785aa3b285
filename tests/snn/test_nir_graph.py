"""A NIR graph, written and read back, is the model: by NIR's own equations it spikes alike, to the last spike."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from tests.snn.test_inference import configs, exact_model, trained

from spikemesh.errors import InvalidData, SpikemeshError
from spikemesh.snn import EventEngine, ModelConfig, SpikingLM, dense_tensors
from spikemesh.snn.config import population_names
from spikemesh.snn.nir_graph import DEFAULT_DT, axon_delays, nir_core, nir_graph

nir = pytest.importorskip("nir", reason="pip install 'spikemesh[nir]'")
from tests.snn.nir_interpreter import Interpreter  # noqa: E402

assert trained

Spikes = dict[str, npt.NDArray[np.float32]]
NUM_TOKENS = 9


def spikes_of(model: SpikingLM, tokens: npt.NDArray[np.int64]) -> tuple[Spikes, npt.NDArray[np.float32]]:
    """Spikes [L, N] of every population of the torch model, and its logits [L, 256]."""
    seen: Spikes = {}

    def noting(name: str) -> Any:
        def note(_module: object, _inputs: object, outputs: tuple[torch.Tensor, torch.Tensor]) -> None:
            seen[name] = outputs[0][:, 0].numpy()

        return note

    handles = [model.get_submodule(name).register_forward_hook(noting(name)) for name in population_names(model.config)]
    with torch.no_grad():
        logits, _ = model(torch.from_numpy(tokens)[None])
    for handle in handles:
        handle.remove()
    return seen, logits[0].numpy()


def run_graph(graph: Any, config: ModelConfig, tokens: npt.NDArray[np.int64]) -> tuple[Spikes, npt.NDArray[np.float32]]:
    """The same from `nir_graph`."""
    interpreter, names = Interpreter(graph, DEFAULT_DT), node_names(config)
    spikes: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in names.values()}
    logits = []
    for token in tokens:
        watched: Spikes = {}
        logits.append(interpreter.step(np.eye(256, dtype=np.float32)[token], watched))
        for node, name in names.items():
            spikes[name].append(watched[node])
    return {name: np.stack(rows) for name, rows in spikes.items()}, np.stack(logits)


def run_core(graph: Any, model: SpikingLM, tokens: npt.NDArray[np.int64]) -> Spikes:
    """The same spikes from `nir_core`, whose currents and delays are ours to make."""
    config, interpreter = model.config, Interpreter(graph, DEFAULT_DT)
    with torch.no_grad():
        currents, _ = model.input_currents(torch.from_numpy(tokens)[:, None], model.initial_state(1).last_tokens)
    delays, sizes = axon_delays(config), [len(p.leak) for p in _populations(model)]
    sent = [np.zeros((config.num_blocks, config.width), np.float32)] * config.num_axon_delays
    rows = []
    for u in currents[:, 0].numpy():
        late = [
            np.choose(delays, [np.zeros_like(u), *(past[b] for past in sent[:0:-1])]) for b in range(config.num_blocks)
        ]
        rows.append(interpreter.step(np.concatenate([u, *late]) if config.num_axon_delays > 1 else u))
        streams = np.split(rows[-1], np.cumsum(sizes)[:-1])[: 2 * config.num_blocks : 2]
        sent = [*sent[1:], np.stack(streams)]
    parts = np.split(np.stack(rows), np.cumsum(sizes)[:-1], axis=1)
    return dict(zip(population_names(config), parts, strict=True))


def _populations(model: SpikingLM) -> Any:
    return EventEngine(model.config, dense_tensors(model))._push.network.populations


def node_names(config: ModelConfig) -> dict[str, str]:
    """The graph's name of each population -> the model's."""
    parts = [f"{part}_{b}" for b in range(config.num_blocks) for part in ("stream", "hidden")]
    return dict(zip([*parts, "output_neurons"], population_names(config), strict=True))


def through_a_file(graph: Any, folder: Path) -> Any:
    nir.write(folder / "model.nir", graph)
    return nir.read(folder / "model.nir")


def _tokens(seed: int, length: int = NUM_TOKENS) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, 256, length)


@settings(max_examples=15, deadline=None)
@given(configs)
def test_the_graph_is_the_model_to_the_bit(config: ModelConfig) -> None:
    model, tokens = exact_model(config), _tokens(config.mask_seed)
    expected, logits = spikes_of(model, tokens)
    spikes, read = run_graph(nir_graph(config, dense_tensors(model)), config, tokens)
    assert np.array_equal(read, logits)
    for name, values in expected.items():
        assert np.array_equal(spikes[name], values), name


@settings(max_examples=15, deadline=None)
@given(configs)
def test_the_core_is_the_models(config: ModelConfig) -> None:
    model, tokens = exact_model(config), _tokens(config.mask_seed)
    expected, _ = spikes_of(model, tokens)
    spikes = run_core(nir_core(config, dense_tensors(model)), model, tokens)
    for name, values in expected.items():
        assert np.array_equal(spikes[name], values), name


def test_a_trained_model_spikes_alike_after_a_file(trained: SpikingLM, tmp_path: Path) -> None:
    """Every neuron has its own leak and threshold by now."""
    tokens = np.frombuffer(b"    def test(self, name: str) -> None:\n        return self.name", np.uint8).astype(
        np.int64
    )
    expected, logits = spikes_of(trained, tokens)
    tensors = dense_tensors(trained)
    spikes, read = run_graph(through_a_file(nir_graph(trained.config, tensors), tmp_path), trained.config, tokens)
    core = run_core(through_a_file(nir_core(trained.config, tensors), tmp_path), trained, tokens)
    assert np.abs(read - logits).max() < 1e-3
    assert sum(values.sum() for values in expected.values()) > 1000
    for name, values in expected.items():
        assert np.array_equal(spikes[name], values), name
        assert np.array_equal(core[name], values), name


def test_what_the_file_says(trained: SpikingLM, tmp_path: Path) -> None:
    config, tensors = trained.config, dense_tensors(trained)
    graph = through_a_file(nir_graph(config, tensors), tmp_path)
    assert "spikemesh.model" in graph.metadata and "forward Euler" in str(graph.metadata["spikemesh.step"])
    assert {type(node).__name__ for node in graph.nodes.values()} == {
        *("Input", "Output", "Linear", "Affine", "Delay", "LIF", "LI")
    }
    lif = graph.nodes["hidden_1"]
    leak = 1 / (1 + np.exp(-tensors["blocks.1.hidden.leak_logit"].astype(np.float64)))
    assert np.array_equal((1 - DEFAULT_DT / lif.tau).astype(np.float32), leak.astype(np.float32))
    assert np.array_equal((lif.r * DEFAULT_DT / lif.tau).astype(np.float32), np.ones(64))
    threshold = tensors["blocks.1.hidden.threshold"]
    assert (lif.v_threshold < threshold).all()
    assert np.array_equal(np.nextafter(lif.v_threshold.astype(np.float32), np.float32(np.inf)), threshold)
    core = through_a_file(nir_core(config, tensors), tmp_path)
    kinds = {type(node).__name__ for node in core.nodes.values()}
    assert kinds == {"Input", "Output", "Linear", "NIRGraph"}
    for node in core.nodes.values():
        if isinstance(node, nir.NIRGraph):
            assert {type(inner).__name__ for inner in node.nodes.values()} == {"Input", "Output", "Linear", "LIF"}


def test_a_core_is_listed_in_its_order(trained: SpikingLM, tmp_path: Path) -> None:
    """As its importers need it: after a file, every node comes after what leads to it."""
    graph = through_a_file(nir_core(trained.config, dense_tensors(trained)), tmp_path)
    places = {name: place for place, name in enumerate(graph.nodes)}
    assert all(places[source] < places[target] for source, target in graph.edges)


def test_alike_neurons_stay_together() -> None:
    config = ModelConfig(width=4, hidden=6, num_blocks=1, num_axon_delays=1)
    graph = nir_core(config, dense_tensors(SpikingLM(config)))
    names = {name.partition("_")[2]: name for name in graph.nodes}
    assert isinstance(graph.nodes[names["hidden_0"]], nir.LIF) and "late_0" not in names


def test_what_nir_cannot_say_is_refused() -> None:
    config = ModelConfig(width=4, hidden=6)
    tensors = dense_tensors(SpikingLM(config))
    for name, logit, makers in (
        ("output", 100.0, (nir_graph, nir_core)),
        ("readout", 100.0, (nir_graph,)),
        ("output", -200.0, (nir_core,)),
    ):
        changed = tensors | {f"{name}.leak_logit": np.full_like(tensors[f"{name}.leak_logit"], logit)}
        for make in makers:
            with pytest.raises(InvalidData, match=name):
                make(config, changed)
    with pytest.raises(InvalidData):
        nir_graph(config, {})
    large = ModelConfig(width=4096, hidden=64, num_blocks=1, density=0.01)
    with pytest.raises(SpikemeshError, match="neurons"):
        nir_core(large, dense_tensors(SpikingLM(large)))


def test_the_package_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(SpikemeshError, match=r"spikemesh\[nir\]"):
        nir_graph(ModelConfig(), {})
