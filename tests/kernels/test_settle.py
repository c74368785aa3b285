"""Neurons of a run's start: the same bits from every implementation, firing at the rate and without drift."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikemesh.kernels import Incoming, Settling, num_bit_bytes, settle
from spikemesh.kernels.spiking.spikes_twin import pack_rows, unpack_rows
from tests.kernels.floats import Floats
from tests.kernels.implementations import ALL, using

HOW = Settling(
    num_steps=1,
    num_sequences=1,
    max_spikes=1,
    leak=0.15,
    rate_steps=12,
    drift_steps=6,
    potentiation_leak=0.78,
    depression_leak=0.78,
    potentiation=1.0,
    depression=1.02,
    max_offset=1.0,
)


@dataclass(frozen=True)
class Case:
    how: Settling
    currents: Floats
    columns: npt.NDArray[np.int32] | None
    weights: Floats
    inputs: npt.NDArray[np.bool_]
    num_threads: int

    @property
    def num_bits(self) -> int:
        return num_bit_bytes(len(self.currents) + 3, self.how.num_tokens)


def case_of(
    seed: int, *, rows: int, steps: int, sequences: int, inputs: int, fan_in: int | None, rate: float = 0.2
) -> Case:
    rng, tokens = np.random.default_rng(seed), steps * sequences
    columns = None
    if fan_in is not None:
        columns = np.sort(np.argsort(rng.random((rows, inputs)), axis=1)[:, :fan_in]).astype(np.int32)
    return Case(
        replace(HOW, num_steps=steps, num_sequences=sequences, max_spikes=int(rate * tokens)),
        rng.standard_normal((rows, tokens)).astype(np.float32),
        columns,
        rng.standard_normal((rows, fan_in or 0)).astype(np.float32),
        rng.random((inputs, tokens)) < 0.3,
        1 + seed % 3,
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    inputs = draw(st.integers(1, 40))
    return case_of(
        draw(st.integers(0, 2**32)),
        rows=draw(st.integers(0, 5)),
        steps=draw(st.sampled_from([1, 2, 9, 33])),
        sequences=draw(st.sampled_from([1, 3, 15, 16, 17, 40])),
        inputs=inputs,
        fan_in=draw(st.one_of(st.none(), st.integers(1, inputs))),
        rate=draw(st.sampled_from([0.0, 0.2, 0.9])),
    )


def settled(name: str, case: Case) -> tuple[Floats, Floats, Floats, npt.NDArray[np.uint8]]:
    """(thresholds, currents, weights, bits of all neurons): three neurons stand before those of the case."""
    currents, weights, bits = case.currents.copy(), case.weights.copy(), np.zeros(case.num_bits, np.uint8)
    with using(name):
        incoming = None
        if case.columns is not None:
            incoming = Incoming(case.columns, weights, pack_rows(case.inputs), len(case.inputs))
        thresholds = settle(
            case.how,
            currents,
            incoming,
            spikes=bits,
            first_neuron=3,
            num_neurons=len(currents) + 3,
            num_threads=case.num_threads,
        )
    return thresholds, currents, weights, bits


@given(cases())
@settings(max_examples=40, deadline=None)
def test_every_implementation_gives_the_same_bits(case: Case) -> None:
    assert len({b"".join(part.tobytes() for part in settled(name, case)) for name in ALL}) == 1


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("fan_in", [None, 12])
def test_neurons_fire_at_the_rate_and_the_others_are_left_alone(name: str, fan_in: int | None) -> None:
    case = case_of(1, rows=6, steps=60, sequences=9, inputs=40, fan_in=fan_in)
    thresholds, currents, weights, bits = settled(name, case)
    spikes = unpack_rows(bits, 9, case.how.num_tokens)
    assert not spikes[:3].any()
    np.testing.assert_allclose(spikes[3:].mean(1), 0.2, atol=0.02)
    if fan_in is None:
        assert np.array_equal(currents, case.currents)
    else:
        shifted, matrix = weights - case.weights, np.zeros((6, 40))
        np.testing.assert_allclose(shifted, shifted[:, :1].repeat(12, 1), atol=1e-6)
        assert (np.abs(shifted) > 1e-3).any()
        np.put_along_axis(matrix, np.asarray(case.columns), weights.astype(np.float64), axis=1)
        np.testing.assert_allclose(currents, case.currents + matrix @ case.inputs, atol=1e-4)
    potentials = np.zeros((6, 9))
    for x, fired in zip(
        currents.reshape(6, 60, 9).transpose(1, 0, 2), spikes[3:].reshape(6, 60, 9).transpose(1, 0, 2), strict=True
    ):
        potentials = 0.15 * potentials + x
        clear = np.abs(potentials - thresholds[:, None]) > 1e-4
        assert np.array_equal((potentials >= thresholds[:, None])[clear], fired[clear])
        potentials[fired] = 0


@pytest.mark.parametrize("name", ALL)
def test_the_drift_over_all_pairs_is_close_to_zero(name: str) -> None:
    """Pair by pair, as the plasticity rule says it, against what it is without the offset."""
    case = case_of(2, rows=8, steps=100, sequences=12, inputs=40, fan_in=12)
    settling = replace(case.how, drift_steps=10)
    before, after = (
        drifts(settled(name, replace(case, how=how)), case) for how in (replace(settling, max_offset=0.0), settling)
    )
    assert np.abs(after).mean() < 0.2 * np.abs(before).mean()


def drifts(result: tuple[Floats, Floats, Floats, npt.NDArray[np.uint8]], case: Case) -> npt.NDArray[np.float64]:
    how, shape = case.how, (-1, case.how.num_steps, case.how.num_sequences)
    fired = unpack_rows(result[3], len(case.currents) + 3, how.num_tokens)[3:].reshape(shape).astype(np.float64)
    counts = np.stack([case.inputs[columns].sum(0) for columns in np.asarray(case.columns)]).reshape(shape)
    total = np.zeros(len(fired))
    for post in range(how.num_steps):
        for pre in range(how.num_steps):
            late = post - pre
            weight = (
                how.potentiation * how.potentiation_leak**late
                if late >= 0
                else -how.depression * how.depression_leak ** (-late - 1)
            )
            total += weight * (fired[:, post] * counts[:, pre]).sum(1)
    return total


@pytest.mark.parametrize("name", ALL)
def test_misuse_is_refused(name: str) -> None:
    case = case_of(3, rows=2, steps=4, sequences=2, inputs=5, fan_in=3)
    beyond = np.asarray(case.columns).copy()
    beyond[1, 2] = 5
    with pytest.raises(ValueError, match="columns among the inputs"):
        settled(name, replace(case, columns=beyond))
    with pytest.raises(ValueError, match="currents"):
        settled(name, replace(case, how=replace(case.how, num_steps=5)))
