"""One token, event by event: compiled code and twin agree to the bit, as do one text and thirty-two."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spikemesh.kernels import NUM_LANES, EventNetwork, Events, EventState, Synapses, Weights, native
from spikemesh.kernels.spiking.events import packed, quantised, synapses_by_source, synapses_by_target, unpacked
from spikemesh.kernels.spiking.events_twin import fused
from tests.kernels.events_networks import Shape, arguments_of, network_of, run, shapes
from tests.kernels.implementations import COMPILED

NUM_TOKENS = 6
EXAMPLE = Shape(
    seed=1,
    width=12,
    hidden=30,
    num_blocks=2,
    num_input_delays=3,
    num_axon_delays=2,
    density=0.3,
    kind=Weights.FLOAT,
)


def _tokens(shape: Shape, lanes: int) -> npt.NDArray[np.int32]:
    return np.random.default_rng(shape.seed + 1).integers(0, 256, (NUM_TOKENS, lanes), np.int32)


@settings(max_examples=60, deadline=None)
@given(shapes, st.booleans())
def test_every_implementation_gives_the_twins_bits(shape: Shape, pull: bool) -> None:
    network = network_of(shape, pull=pull)
    tokens = _tokens(shape, network.num_lanes)
    expected, state = run("numpy", network, tokens)
    assert np.isfinite(expected).all()
    for name in COMPILED:
        logits, after = run(name, network, tokens)
        assert logits.tobytes() == expected.tobytes(), name
        for field in fields(EventState):
            assert getattr(after, field.name).tobytes() == getattr(state, field.name).tobytes(), (name, field.name)


@settings(max_examples=30, deadline=None)
@given(shapes)
def test_a_text_has_the_same_bits_alone_and_beside_others(shape: Shape) -> None:
    alone, together = network_of(shape), network_of(shape, pull=True)
    tokens = _tokens(shape, NUM_LANES)
    name = COMPILED[0] if COMPILED else "numpy"
    logits, state = run(name, together, tokens)
    spikes = np.zeros_like(state.spikes)
    for lane in range(NUM_LANES):
        expected, after = run(name, alone, np.ascontiguousarray(tokens[:, lane : lane + 1]))
        assert logits[:, lane].tobytes() == expected[:, 0].tobytes()
        assert state.potentials[:, lane].tobytes() == after.potentials[:, 0].tobytes()
        spikes += after.spikes
    assert np.array_equal(state.spikes, spikes)


def test_there_is_something_to_compare() -> None:
    """The random networks spike, neither never nor always, and the texts differ."""
    logits, state = run("numpy", network_of(EXAMPLE, pull=True), _tokens(EXAMPLE, NUM_LANES))
    sizes = np.array([12, 30, 12, 30, 12])
    rates = state.spikes / (sizes * NUM_TOKENS * NUM_LANES)
    assert (rates > 0.05).all() and (rates < 0.95).all()
    assert len({row.tobytes() for row in logits[-1]}) == NUM_LANES


def test_only_texts_count_their_spikes() -> None:
    network = network_of(EXAMPLE, pull=True)
    states = [EventState.at_rest(network) for _ in range(2)]
    tokens, logits = _tokens(EXAMPLE, NUM_LANES)[0], np.empty((NUM_LANES, 256), np.float32)
    for state, num_texts in zip(states, (NUM_LANES, 9), strict=True):
        Events(network).step(0, tokens, state, logits, num_texts=num_texts)
    assert (states[1].spikes < states[0].spikes).all() and (states[1].spikes > 0).all()
    assert states[0].potentials.tobytes() == states[1].potentials.tobytes()


floats32 = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**60), max_value=2.0**60)


@settings(deadline=None)
@given(hnp.arrays(np.float32, (3, 8), elements=floats32))
def test_the_twins_fused_step_rounds_once(values: npt.NDArray[np.float32]) -> None:
    from fractions import Fraction

    a, b, c = values
    for got, *exact in zip(fused(a, b, c), a, b, c, strict=True):
        x, y, z = (Fraction(float(value)) for value in exact)
        error = abs(Fraction(float(got)) - (x * y + z))
        below, above = np.nextafter(got, -np.inf), np.nextafter(got, np.inf)
        assert all(error <= abs(Fraction(float(other)) - (x * y + z)) for other in (below, above))


matrices = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.one_of(st.just(0.0), st.floats(-4, 4, width=32)),
)


def _dense(synapses: Synapses, kind: Weights, num_others: int) -> npt.NDArray[np.float64]:
    """[lists, others], by adding up."""
    weights = unpacked(synapses.weights) if kind is Weights.INT4 else synapses.weights
    dense = np.zeros((len(synapses.starts) - 1, num_others))
    for i, (start, stop) in enumerate(zip(synapses.starts[:-1], synapses.starts[1:], strict=True)):
        indices = synapses.indices[start:stop][weights[start:stop] != 0]
        assert np.all(np.diff(indices.astype(int)) > 0), "in the order in which they are added"
        np.add.at(dense[i], synapses.indices[start:stop], weights[start:stop])
    return dense


@settings(deadline=None)
@given(matrices, st.sampled_from(Weights))
def test_lists_hold_the_matrix(matrix: npt.NDArray[np.float32], kind: Weights) -> None:
    weights, scale = (matrix, None) if kind is Weights.FLOAT else quantised(matrix, kind)
    by_source = synapses_by_source(weights, kind, scale)
    by_target = synapses_by_target(by_source, len(weights), kind)
    assert np.array_equal(_dense(by_source, kind, len(weights)).T, weights)
    assert np.array_equal(_dense(by_target, kind, weights.shape[1]), weights)
    assert by_target.scale is scale
    if kind is not Weights.INT4:
        assert len(by_source.indices) == len(by_target.indices) == np.count_nonzero(weights)


@settings(deadline=None)
@given(matrices, st.sampled_from([Weights.INT8, Weights.INT4]))
def test_rounded_weights_are_the_nearest(matrix: npt.NDArray[np.float32], kind: Weights) -> None:
    integers, scale = quantised(matrix, kind)
    assert np.abs(integers.astype(int)).max(initial=0) <= kind.largest
    back = integers * scale[:, None].astype(np.float64)
    assert np.all(np.abs(back - matrix) <= scale[:, None] * 0.5000001)
    rows = np.abs(matrix).max(axis=1)
    assert np.allclose(np.abs(back).max(axis=1), rows, rtol=1e-6, atol=1e-37)


@given(hnp.arrays(np.int8, st.integers(0, 10).map(lambda n: 2 * n), elements=st.integers(-8, 7)))
def test_two_in_a_byte(weights: npt.NDArray[np.int8]) -> None:
    assert len(packed(weights)) == len(weights) // 2
    assert np.array_equal(unpacked(packed(weights)), weights)


# What memory depends on is checked where it is compiled.

needs_compiled = pytest.mark.skipif(native is None, reason="the twin reads no memory of others")


def _without_last(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return array[:-1]


@needs_compiled
@pytest.mark.parametrize("pull", [False, True])
@pytest.mark.parametrize("kind", Weights)
def test_networks_that_do_not_fit_together_are_refused(kind: Weights, pull: bool) -> None:
    network = network_of(Shape(**{**EXAMPLE.__dict__, "kind": kind}), pull=pull)
    good = arguments_of(network)
    native.Events(*good)
    populations, synapses = good[5], good[6]

    def other_set(i: int, starts: object = None, indices: object = None, weights: object = None) -> list[object]:
        old = synapses[i]
        new = (
            old[0] if starts is None else starts,
            old[1] if indices is None else indices,
            old[2] if weights is None else weights,
            old[3],
        )
        return [*synapses[:i], new, *synapses[i + 1 :]]

    starts, indices, weights, scale = synapses[0]
    bad_starts, bad_indices = starts.copy(), indices.copy()
    bad_starts[1], bad_indices[-1] = starts[2] + 2, 30
    cases: list[tuple[int, object]] = [
        (0, 3),
        (2, 0),
        (3, good[3][:-1]),
        (4, good[4][:-1]),
        (4, good[4][:0]),
        (5, populations[:-1]),
        (5, [(populations[0][0][:-1], populations[0][1]), *populations[1:]]),
        (5, [(populations[0][0][:-1], populations[0][1][:-1]), *populations[1:]]),
        (6, synapses[:-1]),
        (6, other_set(0, starts=starts[:-1])),
        (6, other_set(0, starts=bad_starts)),
        (6, other_set(0, starts=starts + np.uint32(2))),
        (6, other_set(0, indices=bad_indices)),
        (6, other_set(0, indices=indices[:-1])),
        (6, other_set(0, weights=weights[:-1])),
        (6, other_set(1, indices=synapses[0][1])),
        (7, good[7][:-1]),
        (8, good[8][:-1]),
    ]
    if scale is not None:
        cases.append((6, [(starts, indices, weights, None), *synapses[1:]]))
        cases.append((6, [(starts, indices, weights, scale[:-1]), *synapses[1:]]))
    if kind is Weights.INT4:
        odd = starts.copy()
        odd[1:-1] += 1
        cases.append((6, other_set(0, starts=odd)))
    for place, value in cases:
        with pytest.raises(ValueError):
            native.Events(*[value if i == place else argument for i, argument in enumerate(good)])


@needs_compiled
def test_steps_that_do_not_fit_are_refused() -> None:
    network = network_of(EXAMPLE)
    events = native.Events(*arguments_of(network))
    state = EventState.at_rest(network)
    good = [0, np.zeros(1, np.int32), 1, state.tokens.reshape(-1), state.potentials.reshape(-1)]
    good += [state.sent.reshape(-1), state.spikes, np.zeros(256, np.float32)]
    events.step(*good)
    cases: list[tuple[int, object]] = [(0, -1), (1, np.array([256], np.int32)), (1, np.array([-1], np.int32))]
    cases += [(1, np.zeros(2, np.int32)), (3, np.full(3, 256, np.int32)), (3, np.full(3, -2, np.int32))]
    cases += [(i, _without_last(good[i])) for i in (3, 4, 5, 6, 7)]
    for place, value in cases:
        with pytest.raises(ValueError):
            events.step(*[value if i == place else argument for i, argument in enumerate(good)])
    with pytest.raises(TypeError):
        events.step(*good[:4], state.potentials.astype(np.float64).reshape(-1), *good[5:])


@needs_compiled
def test_the_arrays_of_a_network_stay() -> None:
    """The compiled network holds them: Python may drop its own references."""
    events = Events(network_of(EXAMPLE))
    expected, _ = run("numpy", network_of(EXAMPLE), _tokens(EXAMPLE, 1))
    compiled, state, logits = events._stepper, EventState.at_rest(events.network), np.empty((1, 256), np.float32)
    del events
    garbage = [np.full(50, np.nan, np.float32) for _ in range(1000)]
    for clock, token in enumerate(_tokens(EXAMPLE, 1)):
        flat = (state.tokens.reshape(-1), state.potentials.reshape(-1), state.sent.reshape(-1), state.spikes)
        compiled.step(clock, token, 1, *flat, logits.reshape(-1))
        assert logits.tobytes() == expected[clock].tobytes()
    assert len(garbage) == 1000


def test_a_network_says_its_lanes() -> None:
    network: EventNetwork = network_of(EXAMPLE, pull=True)
    assert (network.num_lanes, network.num_blocks) == (NUM_LANES, 2)
    assert network_of(EXAMPLE).num_lanes == 1
