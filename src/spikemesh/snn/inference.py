"""A trained model run event by event, on arrays alone: no torch, and only the synapses of neurons that spiked are read.

    engine = EventEngine(config, tensors)          # what a model file holds
    session = engine.session()
    logits = session.read(b"def ")                 # [256], for the next byte

Every weight matrix of the model reads spikes, so a token costs additions: the synapses of the neurons that fired.
A session of fewer than 8 texts pushes spikes through each text by itself; one of more pulls 32 texts at a time
(see kernels/events.py). The bits of a text are the same in both, and do not depend on the texts beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from spikemesh.kernels import NUM_LANES, EventNetwork, Events, EventState, Population, Weights
from spikemesh.kernels.spiking.events import Synapses, in_one_block, quantised, synapses_by_source, synapses_by_target
from spikemesh.progress import SILENT, Progress
from spikemesh.snn.config import VOCAB, ModelConfig, check_tensors, population_names

Floats = npt.NDArray[np.float32]
Tensors = Mapping[str, npt.NDArray[Any]]
WeightFormat = Literal["float", "int8", "int4"]

MIN_PULLED_TEXTS = 8
"""From here on, adding every synapse to 32 texts at once is faster than pushing the events of each text."""


class EventEngine:
    """A model's weights, laid out for events. It is read-only: any number of sessions may share it, in any thread."""

    def __init__(self, config: ModelConfig, tensors: Tensors, *, weights: WeightFormat = "float") -> None:
        """`tensors` are those of a model file, by name: in full, zero where there is no synapse.

        `int8` and `int4` round each weight to a multiple of its neuron's scale; a neuron's largest weight is exact.
        Raises `InvalidData` for tensors that do not fit `config`.
        """
        check_tensors(config, tensors)
        self.config = config
        self.weights: WeightFormat = weights
        self._push = Events(_network(config, tensors, Weights[weights.upper()]))
        self._pull: Events | None = None
        self._names = population_names(config)

    def session(self, batch_size: int = 1) -> Session:
        """A start from rest for `batch_size` texts side by side."""
        if batch_size < 1:
            raise ValueError(f"expected at least one text, got {batch_size}")
        if batch_size < MIN_PULLED_TEXTS:
            return Session(self._push, self._names, batch_size)
        if self._pull is None:
            self._pull = Events(_turned(self._push.network))
        return Session(self._pull, self._names, batch_size)

    @property
    def num_synapses(self) -> int:
        """Weights that are not zero, those of 4 bits padded to pairs."""
        return sum(len(synapses.indices) for synapses in self._push.network.synapses)

    @property
    def num_bytes(self) -> int:
        """Memory of the synapses, in the directions that sessions have asked for so far."""
        made = [events for events in (self._push, self._pull) if events is not None]
        return sum(synapses.num_bytes for events in made for synapses in events.network.synapses)

    def fan_outs(self) -> dict[str, float]:
        """Synapses that one spike of each population sets off, on average; populations as in `Session.rates`."""
        sets = self._push.network.synapses
        return {
            name: len(s.indices) / (len(s.starts) - 1)
            for name, s in zip(population_names(self.config), sets, strict=True)
        }


class Session:
    """Texts in progress: what their neurons remember, which does not grow with their length."""

    def __init__(self, events: Events, names: Sequence[str], batch_size: int) -> None:
        self.batch_size = batch_size
        self.num_tokens = 0
        """Steps so far; each is one token of every text."""
        self._events, self._names = events, names
        lanes = events.network.num_lanes
        self._num_texts = [min(lanes, batch_size - start) for start in range(0, batch_size, lanes)]
        self._states = [EventState.at_rest(events.network) for _ in self._num_texts]
        self._tokens = np.zeros((len(self._num_texts), lanes), np.int32)
        self._logits = np.empty((len(self._num_texts), lanes, VOCAB), np.float32)

    def step(self, tokens: npt.ArrayLike) -> Floats:
        """The next token of each text, [B] -> logits [B, 256] for the one after it. Valid until the next step."""
        given = np.asarray(tokens)
        if given.shape != (self.batch_size,) or not ((given >= 0) & (given < VOCAB)).all():
            raise ValueError(f"expected {self.batch_size} tokens of 0..255, got {given!s:.100}")
        self._tokens.reshape(-1)[: self.batch_size] = given
        for token, state, logits, num_texts in zip(
            self._tokens, self._states, self._logits, self._num_texts, strict=True
        ):
            self._events.step(self.num_tokens, token, state, logits, num_texts=num_texts)
        self.num_tokens += 1
        rows: Floats = self._logits.reshape(-1, VOCAB)
        return rows[: self.batch_size]

    def read(self, text: bytes) -> Floats:
        """For one text: its next bytes, at least one -> logits [256] for the byte that follows."""
        if not text:
            raise ValueError("expected at least one byte")
        for byte in text:
            logits = self.step([byte])
        first: Floats = logits[0]
        return first

    def rates(self) -> dict[str, float]:
        """Spikes per neuron and token so far, of each population."""
        network = self._events.network
        spikes = sum(state.spikes for state in self._states)
        steps = max(1, self.num_tokens * self.batch_size)
        return {
            name: float(count) / (steps * len(population.leak))
            for name, count, population in zip(self._names, np.atleast_1d(spikes), network.populations, strict=True)
        }


def engine_loss(engine: EventEngine, windows: npt.NDArray[np.integer[Any]], progress: Progress = SILENT) -> float:
    """Mean nats per byte over `windows` [W, L + 1]; every window starts from a model at rest."""
    total = 0.0
    progress.begin("measuring the held-out loss", windows[:, 1:].size, "bytes of text")
    for start in range(0, len(windows), NUM_LANES):
        rows = windows[start : start + NUM_LANES]
        session = engine.session(len(rows))
        for tokens, targets in zip(rows.T[:-1], rows.T[1:], strict=True):
            logits = session.step(tokens).astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            total -= float((logits[np.arange(len(rows)), targets] - np.log(np.exp(logits).sum(axis=1))).sum())
            progress.advance(len(rows))
    return total / windows[:, 1:].size


def sigmoid(logit: npt.NDArray[Any]) -> Floats:
    """1 / (1 + exp(-logit)), rounded once to float32."""
    with np.errstate(over="ignore"):
        leak: Floats = (1 / (1 + np.exp(-logit.astype(np.float64)))).astype(np.float32)
    return leak


def _network(config: ModelConfig, tensors: Tensors, kind: Weights) -> EventNetwork:
    populations = tuple(
        Population(sigmoid(tensors[f"{name}.leak_logit"]), _plain(tensors[f"{name}.threshold"]))
        for name in population_names(config)
    )
    head, head_scale = _weights(tensors["head.weight"], kind)
    synapses: list[Synapses] = []
    for b in range(config.num_blocks):
        weights, scale = _weights(tensors[f"blocks.{b}.w_in.weight"], kind)
        synapses.append(synapses_by_source(weights, kind, scale))
        weights, scale = _weights(tensors[f"blocks.{b}.w_out.weight"], kind)
        read = head[:, b * config.hidden : (b + 1) * config.hidden]
        both = None if scale is None or head_scale is None else np.concatenate([scale, head_scale])
        synapses.append(synapses_by_source(np.concatenate([weights, read]), kind, both))
    synapses.append(synapses_by_source(head[:, config.num_blocks * config.hidden :], kind, head_scale))
    return EventNetwork(
        weights=kind,
        pull=False,
        num_axon_delays=config.num_axon_delays,
        embedding=_plain(tensors["embedding"]),
        delay_mix=_plain(tensors["delay_mix"]),
        populations=populations,
        synapses=in_one_block(synapses),
        readout_leak=sigmoid(tensors["readout.leak_logit"]),
        bias=_plain(tensors["readout.bias"]),
    )


def _turned(network: EventNetwork) -> EventNetwork:
    """The same network, its synapses listed per postsynaptic neuron."""
    width = network.delay_mix.shape[1]
    sizes = [size for p in network.populations[1::2] for size in (len(p.leak), width + VOCAB)] + [VOCAB]
    synapses = [synapses_by_target(s, size, network.weights) for s, size in zip(network.synapses, sizes, strict=True)]
    return replace(network, pull=True, synapses=in_one_block(synapses))


def _weights(dense: npt.NDArray[Any], kind: Weights) -> tuple[npt.NDArray[Any], Floats | None]:
    return (dense, None) if kind is Weights.FLOAT else quantised(dense, kind)


def _plain(values: npt.NDArray[Any]) -> Floats:
    """A copy of our own: the file's bytes may go."""
    return np.array(values, np.float32, order="C")
