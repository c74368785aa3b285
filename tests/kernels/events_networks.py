"""Random networks for the event kernels, and every way in which they run on this machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from spikemesh.kernels import EventNetwork, EventState, Population, Synapses, Weights, native
from spikemesh.kernels.spiking.events import NUM_READOUTS, quantised, synapses_by_source, synapses_by_target
from spikemesh.kernels.spiking.events_twin import Events as Twin
from tests.kernels.implementations import using


@dataclass(frozen=True)
class Shape:
    """What a network is drawn from; everything else follows from `seed`."""

    seed: int
    width: int
    hidden: int
    num_blocks: int
    num_input_delays: int
    num_axon_delays: int
    density: float
    kind: Weights


shapes = st.builds(
    Shape,
    seed=st.integers(0, 1 << 32),
    width=st.integers(1, 40),
    hidden=st.sampled_from([1, 2, 15, 63, 64, 65, 130]),
    num_blocks=st.integers(1, 3),
    num_input_delays=st.integers(1, 4),
    num_axon_delays=st.integers(1, 5),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    kind=st.sampled_from(Weights),
)


def network_of(shape: Shape, *, pull: bool = False) -> EventNetwork:
    rng = np.random.default_rng(shape.seed)
    width, hidden, kind = shape.width, shape.hidden, shape.kind

    def floats(*size: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
        return (rng.standard_normal(size) * scale).astype(np.float32)

    def population(size: int) -> Population:
        return Population(rng.random(size, np.float32), floats(size, scale=0.5) + np.float32(0.3))

    def synapses(targets: int, sources: int) -> Synapses:
        dense = floats(targets, sources) * (rng.random((targets, sources)) < shape.density)
        if kind is Weights.FLOAT:
            listed = synapses_by_source(dense, kind, None)
        else:
            listed = synapses_by_source(*_swapped(quantised(dense, kind), kind))
        return synapses_by_target(listed, targets, kind) if pull else listed

    populations, sets = [], []
    for _ in range(shape.num_blocks):
        populations += [population(width), population(hidden)]
        sets += [synapses(hidden, width), synapses(width + NUM_READOUTS, hidden)]
    populations.append(population(width))
    sets.append(synapses(NUM_READOUTS, width))
    head_scale = sets[-1].scale
    if head_scale is not None:  # the readout has one scale, wherever its currents come from
        for i in range(1, len(sets) - 1, 2):
            scale = sets[i].scale
            assert scale is not None
            sets[i] = replace(sets[i], scale=np.concatenate([scale[:-NUM_READOUTS], head_scale]))
    return EventNetwork(
        weights=kind,
        pull=pull,
        num_axon_delays=shape.num_axon_delays,
        embedding=floats(256, width),
        delay_mix=floats(shape.num_input_delays, width),
        populations=tuple(populations),
        synapses=tuple(sets),
        readout_leak=rng.random(NUM_READOUTS, np.float32),
        bias=floats(NUM_READOUTS),
    )


def _swapped(made: tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]], kind: Weights) -> Any:
    return made[0], kind, made[1]


def run(name: str, network: EventNetwork, tokens: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.float32], EventState]:
    """Tokens [L, lanes] through one implementation from rest: logits [L, lanes, 256], and what it remembers."""
    state = EventState.at_rest(network)
    logits = np.full((len(tokens), network.num_lanes, NUM_READOUTS), np.nan, np.float32)
    arguments = arguments_of(network)
    stepper = Twin(*arguments) if name == "numpy" else native.Events(*arguments)
    flat = (state.tokens.reshape(-1), state.potentials.reshape(-1), state.sent.reshape(-1), state.spikes)
    counted = (1 << network.num_lanes) - 1
    for clock, (token, out) in enumerate(zip(tokens, logits, strict=True)):
        if name == "numpy":
            stepper.step(clock, token, counted, *flat, out.reshape(-1))
        else:
            with using(name):
                stepper.step(clock, token, counted, *flat, out.reshape(-1))
    return logits, state


def arguments_of(network: EventNetwork) -> list[Any]:
    from spikemesh.kernels.spiking.events import _arguments

    return list(_arguments(network))
