"""Neurons of a run's start: what they receive on a sample, their thresholds, and the offsets of their weights.

`snn/init.py` says what for. Every float operation is rounded on its own and every sum has its order, so that compiled
code, whatever its instruction set, and the NumPy twin give the same bits.

Letters: R row (one neuron), K synapse of a row, L token (time), B sequence of the sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spikemesh.kernels.dispatch import implementation

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Settling:
    """How neurons settle. Leaks are per token; floats are used as float32."""

    num_steps: int
    """L"""
    num_sequences: int
    """B"""
    max_spikes: int
    """A neuron's, on the whole sample, at the target rate."""
    leak: float
    rate_steps: int
    """Bisections of a threshold."""
    drift_steps: int
    """Bisections of an offset."""
    potentiation_leak: float
    depression_leak: float
    potentiation: float
    depression: float
    max_offset: float
    """Search range of the offset, in root mean squares of a neuron's weights."""

    @property
    def num_tokens(self) -> int:
        return self.num_steps * self.num_sequences

    @property
    def span(self) -> float:
        """What a constant current of 1 charges a membrane to."""
        one = np.float32(1)
        return float(one / (one - np.float32(self.leak)))


@dataclass(frozen=True, eq=False)
class Incoming:
    """The synapses of some rows: columns int32 and weights float32 [R, K], and the spikes of all inputs as bits."""

    columns: npt.NDArray[np.int32]
    weights: Floats
    spikes: Bits
    num_inputs: int


def settle(
    how: Settling,
    currents: Floats,
    incoming: Incoming | None,
    *,
    spikes: Bits,
    first_neuron: int,
    num_neurons: int,
    num_threads: int = 1,
) -> Floats:
    """Thresholds [R] of the neurons from `first_neuron` on, of a population of `num_neurons`.

    `currents` [R, L * B] from elsewhere; what comes in by synapses is added to them, and the offset to their weights,
    both in place. The neurons' spikes go to their places in `spikes` (see `spikes`), where they have zeros.
    """
    if currents.shape[1:] != (how.num_tokens,) or not currents.flags.c_contiguous:
        raise ValueError(f"expected currents [R, {how.num_tokens}], contiguous, got shape {currents.shape}")
    thresholds = np.empty(len(currents), np.float32)
    if incoming is None:
        nothing = np.empty((len(currents), 0))
        incoming = Incoming(nothing.astype(np.int32), nothing.astype(np.float32), np.empty(0, np.uint8), 0)
    implementation("spiking.settle_twin").settle(
        currents.reshape(-1),
        incoming.spikes,
        incoming.columns.reshape(-1),
        incoming.weights.reshape(-1),
        thresholds,
        spikes,
        first_neuron,
        num_neurons,
        incoming.num_inputs,
        how.num_steps,
        how.num_sequences,
        how.max_spikes,
        how.leak,
        how.span,
        how.rate_steps,
        how.drift_steps,
        how.potentiation_leak,
        how.depression_leak,
        how.potentiation,
        how.depression,
        how.max_offset,
        num_threads,
    )
    return thresholds
