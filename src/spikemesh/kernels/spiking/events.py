"""A spiking network run event by event: of every weight matrix, only the synapses of neurons that spiked are read.

Compiled code where it was built (`_native`), the NumPy twin elsewhere: the same bits from both.

Letters: D width of the stream, K input delays, S synapses, B texts side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spikemesh.kernels.dispatch import implementation

Floats = npt.NDArray[np.float32]

NUM_LANES = 32
"""Texts that one pull steps side by side: a neuron's spikes are one word."""
NUM_READOUTS = 256
_LINE_BYTES = 64


class Weights(IntEnum):
    """How a synapse's weight is kept."""

    FLOAT = 0
    INT8 = 1
    INT4 = 2
    """Two in a byte, the first in the low half; every list has an even number of them."""

    @property
    def largest(self) -> int:
        """The largest integer weight; the smallest is its negative."""
        return {Weights.INT8: 127, Weights.INT4: 7}[self]


@dataclass(frozen=True, eq=False)
class Synapses:
    """One weight matrix without its zeros: a list per neuron on one side, each synapse naming one on the other.

    To *push*, lists are per presynaptic neuron: a spike adds its list. To *pull*, they are per postsynaptic neuron.
    """

    starts: npt.NDArray[np.uint32]
    """Where each list starts, and where the last one stops, in synapses."""
    indices: npt.NDArray[np.uint16]
    """[S], ascending inside a list, padding aside."""
    weights: npt.NDArray[Any]
    """[S] float32 or int8; [S / 2] uint8 with two 4-bit weights each."""
    scale: Floats | None
    """[N] of the postsynaptic neurons: the current of an integer weight of 1. None for float weights."""

    @property
    def num_bytes(self) -> int:
        return self.starts.nbytes + self.indices.nbytes + self.weights.nbytes


@dataclass(frozen=True, eq=False)
class Population:
    """Leak and threshold of each neuron."""

    leak: Floats
    threshold: Floats


@dataclass(frozen=True, eq=False)
class EventNetwork:
    """All arrays of a model, for one direction. Populations: stream and hidden of each block, then the output.

    Synapses, one set that each population sets off: stream to hidden, hidden to the D of the stream and the 256 of the
    readout, for each block; then output to readout.
    """

    weights: Weights
    pull: bool
    num_axon_delays: int
    embedding: Floats
    """[256, D]."""
    delay_mix: Floats
    """[K, D]."""
    populations: tuple[Population, ...]
    synapses: tuple[Synapses, ...]
    readout_leak: Floats
    bias: Floats

    @property
    def num_blocks(self) -> int:
        return len(self.populations) // 2

    @property
    def num_lanes(self) -> int:
        return NUM_LANES if self.pull else 1


@dataclass(frozen=True, eq=False)
class EventState:
    """What a session remembers from token to token; a step writes into it. Rings are indexed by the token's number."""

    tokens: npt.NDArray[np.int32]
    """[K, lanes]; -1 is none yet."""
    potentials: Floats
    """[neurons, lanes]: the populations in their order, then the readout."""
    sent: npt.NDArray[np.uint32]
    """[blocks, axon delays, D]: bit l is the spike of lane l."""
    spikes: npt.NDArray[np.int64]
    """[populations]: counted so far."""

    @classmethod
    def at_rest(cls, network: EventNetwork) -> EventState:
        lanes, (num_delays, width) = network.num_lanes, network.delay_mix.shape
        num_neurons = sum(len(p.leak) for p in network.populations) + NUM_READOUTS
        return cls(
            np.full((num_delays, lanes), -1, np.int32),
            np.zeros((num_neurons, lanes), np.float32),
            np.zeros((network.num_blocks, network.num_axon_delays, width), np.uint32),
            np.zeros(len(network.populations), np.int64),
        )


class Stepper(Protocol):
    """What runs a network: compiled or twin."""

    def step(
        self,
        clock: int,
        token: npt.NDArray[np.int32],
        counted_lanes: int,
        tokens: npt.NDArray[np.int32],
        potentials: Floats,
        sent: npt.NDArray[np.uint32],
        spikes: npt.NDArray[np.int64],
        logits: Floats,
    ) -> None: ...


class Events:
    """A network made ready to run. Its arrays are checked here, once; `ValueError` if they do not fit together."""

    def __init__(self, network: EventNetwork) -> None:
        self.network = network
        self._stepper: Stepper = implementation("spiking.events_twin").Events(*_arguments(network))

    def step(
        self, clock: int, token: npt.NDArray[np.int32], state: EventState, logits: Floats, *, num_texts: int = 1
    ) -> None:
        """Token number `clock` of every lane, `token` [lanes], through the network: `logits` [lanes, 256] and `state`.

        Only the first `num_texts` lanes count their spikes.
        """
        flat = (state.tokens.reshape(-1), state.potentials.reshape(-1), state.sent.reshape(-1))
        self._stepper.step(clock, token, (1 << num_texts) - 1, *flat, state.spikes, logits.reshape(-1))


def _arguments(network: EventNetwork) -> Sequence[Any]:
    return (
        int(network.weights),
        network.pull,
        network.num_axon_delays,
        network.embedding.reshape(-1),
        network.delay_mix.reshape(-1),
        [(p.leak, p.threshold) for p in network.populations],
        [(s.starts, s.indices, s.weights.view(np.uint8), s.scale) for s in network.synapses],
        network.readout_leak,
        network.bias,
    )


def synapses_by_source(weights: npt.NDArray[Any], kind: Weights, scale: Floats | None) -> Synapses:
    """Lists per presynaptic neuron of a dense matrix [N, I]: float32, or int8 with its `scale`."""
    targets, sources = np.nonzero(weights)
    return _listed(sources, targets, weights[targets, sources], weights.shape[1], kind, scale)


def synapses_by_target(by_source: Synapses, num_targets: int, kind: Weights) -> Synapses:
    """The same synapses listed per postsynaptic neuron."""
    counts: npt.NDArray[Any] = np.diff(by_source.starts.astype(np.int64))
    sources = np.repeat(np.arange(len(counts)), counts)
    targets: npt.NDArray[Any] = by_source.indices
    weights: npt.NDArray[Any] = by_source.weights
    if kind is Weights.INT4:
        weights = unpacked(weights)
        real = weights != 0
        sources, targets, weights = sources[real], targets[real], weights[real]
    return _listed(targets, sources, weights, num_targets, kind, by_source.scale)


def in_one_block(sets: Sequence[Synapses]) -> tuple[Synapses, ...]:
    """Copies whose arrays lie in one block of memory: NumPy asks for huge pages for it, as lists are read anywhere."""
    offset = 0
    places: list[int] = []
    for array in (array for s in sets for array in (s.starts, s.indices, s.weights)):
        places.append(offset)
        offset += -(-array.nbytes // _LINE_BYTES) * _LINE_BYTES
    block = np.empty(offset, np.uint8)
    place = iter(places)

    def moved(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        start = next(place)
        copy = block[start : start + array.nbytes].view(array.dtype)
        copy[:] = array
        return copy

    return tuple(Synapses(moved(s.starts), moved(s.indices), moved(s.weights), s.scale) for s in sets)


def _listed(
    owners: npt.NDArray[Any],
    others: npt.NDArray[Any],
    weights: npt.NDArray[Any],
    num_lists: int,
    kind: Weights,
    scale: Floats | None,
) -> Synapses:
    """Synapses grouped by owner, in the order given inside each group; for 4 bits, padded to pairs with zeros."""
    order = np.argsort(owners.astype(np.uint16), kind="stable")  # radix sort
    counts = np.bincount(owners, minlength=num_lists)
    others, weights = others[order].astype(np.uint16), weights[order]
    if kind is Weights.INT4:
        odd = np.flatnonzero(counts % 2)
        ends = np.cumsum(counts)[odd]
        others, weights = np.insert(others, ends, 0), np.insert(weights, ends, 0)
        counts += counts % 2
        weights = packed(weights)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)
    return Synapses(starts, others, np.ascontiguousarray(weights), scale)


def packed(weights: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Weights of -8..7, an even number of them, two in a byte."""
    halves: npt.NDArray[Any] = weights.view(np.uint8) & 15
    joined: npt.NDArray[np.uint8] = halves[::2] | halves[1::2] << 4
    return joined


def unpacked(pairs: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """The inverse of `packed`."""
    halves = np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1)
    signed: npt.NDArray[np.int8] = (halves ^ 8).view(np.int8) - np.int8(8)
    return signed


def quantised(weights: Floats, kind: Weights) -> tuple[npt.NDArray[np.int8], Floats]:
    """Integer weights of a matrix [N, I] and the scale of each of its rows: nearest, the largest weight exact."""
    largest = np.abs(weights).max(axis=1, initial=0.0)
    scale = np.where(largest > 0, largest / np.float32(kind.largest), 1.0).astype(np.float32)
    integers = np.rint(weights / scale[:, None]).clip(-kind.largest, kind.largest).astype(np.int8)
    return integers, scale
