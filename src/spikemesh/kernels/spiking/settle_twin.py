"""Neurons of a run's start in NumPy: what `cpp/spiking/settle.cpp` does, with the arguments of the compiled function.

All rows at once, [R, L, B]. Scalars are float32, so nothing is computed in double precision but where it says so.

Letters: R row (one neuron), K synapse of a row, L token (time), B sequence of the sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spikemesh.kernels.spiking.spikes import BLOCK_BYTES, Bits
from spikemesh.kernels.spiking.spikes_twin import pack_rows, unpack_rows

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

F = np.float32
HALF = np.float32(0.5)


@dataclass(frozen=True)
class _Job:
    max_spikes: int
    leak: np.float32
    span: np.float32
    rate_steps: int
    drift_steps: int
    potentiation_leak: np.float32
    depression_leak: np.float32
    potentiation: np.float32
    depression: np.float32
    max_offset: np.float32


def settle(
    currents: Floats,
    bits: Bits,
    columns: npt.NDArray[np.int32],
    weights: Floats,
    thresholds: Floats,
    spikes: Bits,
    first_neuron: int,
    num_neurons: int,
    num_inputs: int,
    num_steps: int,
    num_lanes: int,
    max_spikes: int,
    leak: float,
    span: float,
    rate_steps: int,
    drift_steps: int,
    potentiation_leak: float,
    depression_leak: float,
    potentiation: float,
    depression: float,
    max_offset: float,
    _num_threads: int,
) -> None:
    num_rows, shape = len(thresholds), (len(thresholds), num_steps, num_lanes)
    if num_rows == 0:
        return
    job = _Job(
        max_spikes,
        F(leak),
        F(span),
        rate_steps,
        drift_steps,
        F(potentiation_leak),
        F(depression_leak),
        F(potentiation),
        F(depression),
        F(max_offset),
    )
    if len(columns) and not 0 <= columns.min() <= columns.max() < num_inputs:
        raise ValueError("expected columns among the inputs")
    x = currents.reshape(shape)
    if len(columns):
        row_columns, row_weights = columns.reshape(num_rows, -1), weights.reshape(num_rows, -1)
        fired = unpack_rows(bits, num_inputs, num_steps * num_lanes)
        sums, counts = (part.reshape(shape) for part in _receive(row_columns, row_weights, fired))
        x += sums
        offset = _offset_for_zero_drift(job, x, counts, _root_mean_square(row_weights))
        row_weights += offset[:, None]
        x += offset[:, None, None] * counts
    thresholds[:] = _threshold_for_rate(job, x)
    result = np.stack(list(_fire(job, x, thresholds)), axis=1).reshape(num_rows, -1)
    room = spikes.reshape(-1, num_neurons, BLOCK_BYTES)[:, first_neuron : first_neuron + num_rows]
    room |= pack_rows(result).reshape(room.shape)


def _receive(columns: npt.NDArray[np.int32], weights: Floats, fired: Bools) -> tuple[Floats, Floats]:
    """Sums over each row's synapses, one after the other [R, L * B]: of the weights that fired, and how many did."""
    sums, counts = (np.zeros((len(columns), fired.shape[1]), np.float32) for _ in range(2))
    for k in range(columns.shape[1]):
        spikes = fired[columns[:, k]].astype(np.float32)
        sums += weights[:, k, None] * spikes
        counts += spikes
    return sums, counts


def _fire(job: _Job, x: Floats, threshold: Floats) -> Iterator[Bools]:
    """Who fires [R, B], step by step, from rest."""
    v = np.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        u = job.leak * v + x[:, t]
        fired = u >= threshold[:, None]
        yield fired
        v = np.where(fired, F(0), u)


def _threshold_for_rate(job: _Job, x: Floats) -> Floats:
    low = np.minimum(x.min((1, 2)), F(0)) * job.span
    high = np.maximum(x.max((1, 2)), F(0)) * job.span
    for _ in range(job.rate_steps):
        middle = (low + high) * HALF
        too_many = sum(fired.sum(1) for fired in _fire(job, x, middle)) > job.max_spikes
        low, high = np.where(too_many, middle, low), np.where(too_many, high, middle)
    threshold: Floats = (low + high) * HALF
    return threshold


def _spike_drifts(job: _Job, counts: Floats) -> Floats:
    """What a spike adds to the drift of all the neuron's synapses together."""
    drifts, trace = np.empty_like(counts), np.zeros_like(counts[:, 0])
    for t in range(counts.shape[1]):
        trace = job.potentiation_leak * trace + counts[:, t]
        drifts[:, t] = job.potentiation * trace
    trace = np.zeros_like(trace)
    for t in reversed(range(counts.shape[1])):
        drifts[:, t] -= job.depression * trace
        trace = job.depression_leak * trace + counts[:, t]
    return drifts


def _drift(job: _Job, x: Floats, threshold: Floats, drifts: Floats) -> npt.NDArray[np.float64]:
    """Of each row, in double precision: each sequence's in the order of its tokens, then these in theirs."""
    sums = np.zeros_like(x[:, 0])
    for t, fired in enumerate(_fire(job, x, threshold)):
        sums += np.where(fired, drifts[:, t], F(0))
    total = np.zeros(len(x))
    for b in range(sums.shape[1]):
        total += sums[:, b]
    return total


def _offset_for_zero_drift(job: _Job, x: Floats, counts: Floats, std: Floats) -> Floats:
    """By bisection; the drift jumps where a spike moves, so the trial that came nearest to zero is taken."""
    drifts = _spike_drifts(job, counts)
    low, high = -job.max_offset * std, job.max_offset * std
    nearest, least = np.zeros_like(std), np.full(len(std), np.inf)
    for _ in range(job.drift_steps):
        middle = (low + high) * HALF
        shifted = x + middle[:, None, None] * counts
        drift = _drift(job, shifted, _threshold_for_rate(job, shifted), drifts)
        nearer, grows = np.abs(drift) < least, drift > 0.0
        nearest, least = np.where(nearer, middle, nearest), np.where(nearer, np.abs(drift), least)
        low, high = np.where(grows, low, middle), np.where(grows, middle, high)
    return nearest


def _root_mean_square(weights: Floats) -> Floats:
    total = np.zeros(len(weights))
    for k in range(weights.shape[1]):
        total += weights[:, k].astype(np.float64) * weights[:, k].astype(np.float64)
    root: Floats = np.sqrt(total / weights.shape[1]).astype(np.float32)
    return root
