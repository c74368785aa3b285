"""The start of a run: every population fires at a target rate, and pair-STDP would change no neuron's weights.

Done layer by layer on a sample of real input, as the currents depend on the layers before:

1. *Fluctuation-driven* (Rossbroich, Gygax & Zenke 2022): weights have mean zero and standard deviation
   gain / sqrt(fan_in * rate), so that a neuron's current fluctuates with standard deviation of about `gain`, and
   spikes come from fluctuations that cross the threshold, not from the mean.
2. *Rate-calibrated*: each neuron's threshold is found by bisection such that it fires at `target_rate` on the sample.
3. *STDP-aware*: a common offset is added to each neuron's incoming weights. It decides how strongly the neuron
   follows the summed activity of its inputs, hence how far potentiation outweighs depression (`plasticity`). It is
   found by bisection such that the drift summed over the neuron's synapses is as near to zero as a trial came; at
   each trial offset the threshold is calibrated anew, so rate and drift hold together.

The same config, sample and seed give the same bits on every machine, whatever runs the kernels and on however many
threads: numbers are drawn by their place (`kernels.spiking.draw`), and no operation is left to a library's rounding.

What is different here: neurons of a layer settle without looking at each other, so a few rows at a time are drawn,
settled (`kernels.spiking.settle`) and handed to a sink. Memory is the spikes of one layer as bits, the stream of
currents, and these few rows; the model itself is nowhere.

Shapes: L token, B sequence of the sample, D width, N neuron, R some rows (neurons) of a matrix, K synapse of one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from spikemesh.kernels import Incoming, Settling, delay_spikes, draw_columns, draw_normals, num_bit_bytes, settle
from spikemesh.progress import SILENT, Progress
from spikemesh.snn.config import VOCAB, ModelConfig, balanced_fan_in
from spikemesh.snn.plasticity import StdpWindow
from spikemesh.snn.table import MASK_PREFIX, THETA0, layout_tensors, start_shapes

if TYPE_CHECKING:
    from spikemesh.snn.model import SpikingLM

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint8]
Tokens = npt.NDArray[np.int64]

STREAM_GAIN = 0.5
"""Current fluctuation that a block adds to the stream, where the embedding's is 1."""
HEAD_GAIN = 0.1
"""Small, so that the first predictions are close to uniform."""
MIX_STD = 0.5
RATE_STEPS = 12
DRIFT_STEPS = 11
MAX_OFFSET = 2.0
"""Search range of the weight offset, in standard deviations of the neuron's weights."""

ROWS = 256
"""Neurons that are settled at once, a multiple of 8 so that their masks are whole bytes; fewer if they have many"""
SYNAPSES = 1 << 19
"""synapses, so that these stay below so many."""


class StartSink(Protocol):
    """Where a start goes, piece by piece and in no order; every place is written once."""

    def put(self, name: str, first: int, values: npt.NDArray[Any]) -> None:
        """Elements first.. of "theta0" or of a mask's bytes; `values` is one-dimensional and used at once."""


def initialise(
    config: ModelConfig, tokens: Tokens, *, seed: int, window: StdpWindow | None = None, num_threads: int = 1
) -> SpikingLM:
    """A model at its start, calibrated on `tokens` [B, L] (a few thousand bytes of training text)."""
    from spikemesh.snn.layout import model_from_tensors

    kept = _Kept(config)
    write_start(config, tokens, seed=seed, sink=kept, window=window, num_threads=num_threads)
    return model_from_tensors(config, kept.tensors)


def write_start(
    config: ModelConfig,
    tokens: Tokens,
    *,
    seed: int,
    sink: StartSink,
    window: StdpWindow | None = None,
    num_threads: int = 1,
    progress: Progress = SILENT,
) -> None:
    """What `initialise` makes, as the tensors that a run ships (`start_shapes`), without a model in memory.

    `seed` in 0..2**64-1 is that of the weights; masks follow the config's. Raises `ValueError` for another.
    """
    num_synapses = sum(tensor.num_coordinates for tensor in layout_tensors(config) if tensor.masked)
    progress.begin("drawing and settling the start", num_synapses, "synapses")
    _Start(config, tokens, seed, sink, window or StdpWindow(), num_threads, progress).write()


class _Kept:
    """A start in memory."""

    def __init__(self, config: ModelConfig) -> None:
        self.tensors = {name: np.zeros(shape, dtype) for name, (dtype, shape) in start_shapes(config).items()}

    def put(self, name: str, first: int, values: npt.NDArray[Any]) -> None:
        self.tensors[name][first : first + len(values)] = values


@dataclass(frozen=True, eq=False)
class _Source:
    """A weight matrix and what it reads: the spikes of `num_inputs` neurons."""

    name: str
    spikes: Bits
    num_inputs: int
    gain: float


class _Start:
    """One run through the layers, in the order in which currents flow."""

    def __init__(
        self,
        config: ModelConfig,
        tokens: Tokens,
        seed: int,
        sink: StartSink,
        window: StdpWindow,
        num_threads: int,
        progress: Progress,
    ) -> None:
        self.config, self.tokens, self.seed, self.sink = config, tokens, seed, sink
        self.how = _settling(config, tokens, window)
        self.num_threads, self.progress = num_threads, progress
        self.first: dict[str, int] = {}
        end = 0
        for tensor in layout_tensors(config):
            self.first[tensor.name] = end
            end += tensor.num_coordinates

    def write(self) -> None:
        config = self.config
        u = self._input_currents()
        into_stream: _Source | None = None
        for block in range(config.num_blocks):
            name = f"blocks.{block}"
            spikes = self._population(f"{name}.stream", config.width, u, into_stream)
            w_in = _Source(f"{name}.w_in.weight", self._delayed(spikes), config.width, 1.0)
            hidden = self._population(f"{name}.hidden", config.hidden, None, w_in)
            into_stream = _Source(f"{name}.w_out.weight", hidden, config.hidden, STREAM_GAIN)
        self._population("output", config.width, u, into_stream)
        self._head()

    def _input_currents(self) -> Floats:
        """Embedding N(0, 1); each channel listens mostly to one of the last tokens. [D, L * B]."""
        config, channels = self.config, np.arange(self.config.width)
        embedding = self._normals("embedding", range(VOCAB), config.width, 1.0)
        mix = self._normals("delay_mix", range(config.num_input_delays), config.width, MIX_STD)
        mix[channels % config.num_input_delays, channels] = 1.0
        self._put("embedding", 0, embedding)
        self._put("delay_mix", 0, mix)
        return _mixed(embedding, mix, self.tokens)

    def _population(self, name: str, size: int, currents: Floats | None, source: _Source | None) -> Bits:
        """Settle the population and the weights that lead to it; `currents` [N, L * B] grow by what these bring."""
        how, spikes = self.how, np.zeros(num_bit_bytes(size, self.how.num_tokens), np.uint8)
        fan_in = 0 if source is None else balanced_fan_in(source.num_inputs, self.config.density)
        for rows in _stretches(size, fan_in):
            x = np.zeros((len(rows), how.num_tokens), np.float32)
            if currents is not None:
                x = currents[rows.start : rows.stop]
            incoming = None if source is None else self._drawn(source, rows, fan_in)
            thresholds = settle(
                how,
                x,
                incoming,
                spikes=spikes,
                first_neuron=rows.start,
                num_neurons=size,
                num_threads=self.num_threads,
            )
            self._put(f"{name}.threshold", rows.start, thresholds)
            if source is not None and incoming is not None:
                self._put(source.name, rows.start * fan_in, incoming.weights)
        self._put(f"{name}.leak_logit", 0, np.full(size, _logit(self.config.initial_leak), np.float32))
        return spikes

    def _head(self) -> None:
        """Nothing fires behind it: its weights stay as they are drawn."""
        config = self.config
        source = _Source("head.weight", np.empty(0, np.uint8), config.weight_shapes()["head.weight"][1], HEAD_GAIN)
        fan_in = balanced_fan_in(source.num_inputs, config.density)
        for rows in _stretches(VOCAB, fan_in):
            self._put(source.name, rows.start * fan_in, self._drawn(source, rows, fan_in).weights)
        self._put("readout.leak_logit", 0, np.full(VOCAB, _logit(config.initial_leak), np.float32))
        self._put("readout.bias", 0, np.zeros(VOCAB, np.float32))

    def _drawn(self, source: _Source, rows: range, fan_in: int) -> Incoming:
        """The synapses of some rows. Their mask is written, their weights may still move."""
        columns = draw_columns(
            self.config.mask_seed,
            source.name,
            rows,
            num_columns=source.num_inputs,
            fan_in=fan_in,
            num_threads=self.num_threads,
        )
        bits = mask_bits(columns, source.num_inputs)
        self.sink.put(MASK_PREFIX + source.name, rows.start * source.num_inputs // 8, bits)
        weights = self._normals(source.name, rows, fan_in, source.gain / math.sqrt(fan_in * self.config.target_rate))
        self.progress.advance(columns.size)
        return Incoming(columns, weights, source.spikes, source.num_inputs)

    def _normals(self, name: str, rows: range, count: int, std: float) -> Floats:
        return draw_normals(self.seed, name, rows, count=count, std=std, num_threads=self.num_threads)

    def _delayed(self, spikes: Bits) -> Bits:
        """What `modules.AxonDelay` makes of the stream's spikes."""
        width, delays = self.config.width, self.config.num_axon_delays
        bounds = [width * k // delays for k in range(delays + 1)]
        waits = np.repeat(np.arange(delays) * self.how.num_sequences, np.diff(bounds))
        late = np.empty_like(spikes)
        delay_spikes(spikes, waits, self.how.num_tokens, late)
        return late

    def _put(self, name: str, first: int, values: Floats) -> None:
        """Elements of a tensor, as coordinates of "theta0"."""
        self.sink.put(THETA0, self.first[name] + first, values.reshape(-1))


def mask_bits(columns: npt.NDArray[np.int32], num_columns: int) -> Bits:
    """The mask [R, num_columns] with ones at these columns [R, K], as packed bits: row-major, high bit first.

    Goes through the ones only, which must rise in each row.
    """
    places = (np.arange(len(columns))[:, None] * num_columns + columns).reshape(-1)
    bits, of_byte = np.zeros(-(-len(columns) * num_columns // 8), np.uint8), places >> 3
    firsts = np.flatnonzero(np.diff(of_byte, prepend=-1))
    ones = np.right_shift(128, places & 7).astype(np.uint8)
    if len(firsts):
        bits[of_byte[firsts]] = np.bitwise_or.reduceat(ones, firsts)
    return bits


def _mixed(embedding: Floats, mix: Floats, tokens: Tokens) -> Floats:
    """u[t] = sum over k of mix[k] * embedding[token[t - k]], added in this order; tokens [B, L] -> [D, L * B]."""
    batch, length = tokens.shape
    u = np.zeros((mix.shape[1], length, batch), np.float32)
    for channel, row in enumerate(u):
        said = embedding[:, channel][tokens.T]
        for k, weight in enumerate(mix[:, channel]):
            row[k:] += weight * said[: max(0, length - k)]
    return u.reshape(len(u), -1)


def _stretches(size: int, fan_in: int) -> Iterator[range]:
    """Rows that are drawn and settled together."""
    step = max(8, min(ROWS, SYNAPSES // max(1, fan_in) // 8 * 8))
    return (range(first, min(size, first + step)) for first in range(0, size, step))


def _settling(config: ModelConfig, tokens: Tokens, window: StdpWindow) -> Settling:
    if tokens.ndim != 2 or tokens.size == 0:
        raise ValueError(f"expected tokens [B, L], at least one, got shape {tokens.shape}")
    return Settling(
        num_steps=tokens.shape[1],
        num_sequences=tokens.shape[0],
        max_spikes=math.floor(config.target_rate * tokens.size),
        leak=config.initial_leak,
        rate_steps=RATE_STEPS,
        drift_steps=DRIFT_STEPS,
        potentiation_leak=window.potentiation_leak,
        depression_leak=window.depression_leak,
        potentiation=window.potentiation,
        depression=window.depression,
        max_offset=MAX_OFFSET,
    )


def _logit(share: float) -> float:
    """log(share / (1 - share)), rounded correctly, which the system's logarithm need not be."""
    with localcontext(prec=40):
        exact = Decimal(share)
        return float((exact / (1 - exact)).ln())
