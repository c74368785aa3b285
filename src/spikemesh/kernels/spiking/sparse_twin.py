"""The sparse products in NumPy: what `cpp/spiking/bind_sparse.cpp` does, with its names and arguments.

The k-th synapses of all rows are worked on together, k by k, so each sum is in the order of its synapses: of 192 inputs
at a time, and then of these sums.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spikemesh.kernels.spiking.spikes import BLOCK_BYTES, BLOCK_TOKENS
from spikemesh.kernels.spiking.spikes_twin import pack_rows, unpack_rows

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

SUM_INPUTS = 192
"""Inputs that are summed apart."""


class Pattern:
    """See `sparse.Pattern`. Letters: R row, F column, T token, S synapse; all arrays but the first two are flat."""

    def __init__(self, starts: Ints, columns: npt.NDArray[np.int32], num_columns: int) -> None:
        num_rows, num_synapses = len(starts) - 1, len(columns)
        if num_rows < 0 or num_columns < 0 or starts[0] != 0 or starts[-1] != num_synapses:
            raise ValueError("expected starts from 0 to the number of synapses")
        if (np.diff(starts) < 0).any():
            raise ValueError("expected starts in order")
        if num_synapses and not 0 <= columns.min() <= columns.max() < num_columns:
            raise ValueError("a column is out of range")
        self.rows = np.repeat(np.arange(num_rows), np.diff(starts))
        self.columns = columns.astype(np.int64)
        if (np.diff(self.rows * num_columns + self.columns) <= 0).any():
            raise ValueError("expected the columns of a row in order")
        self.num_rows, self.num_columns = num_rows, num_columns

    def pack_spikes(self, x: Floats, num_tokens: int, first: int, bits: Bits, _num_threads: int) -> bool:
        spikes = x.reshape(-1, num_tokens)
        if not 0 <= first <= self.num_columns - len(spikes):
            raise ValueError("expected features among the columns")
        num_blocks = -(-num_tokens // BLOCK_TOKENS)
        packed = pack_rows(spikes != 0).reshape(num_blocks, len(spikes), BLOCK_BYTES)
        bits.reshape(num_blocks, self.num_columns, BLOCK_BYTES)[:, first : first + len(spikes)] = packed
        return bool(((spikes == 0) | (spikes == 1)).all())

    def multiply_spikes(self, values: Floats, bits: Bits, num_tokens: int, y: Floats, num_threads: int) -> None:
        self.multiply(values, self._unpacked(bits, num_tokens), num_tokens, y, num_threads)

    def multiply(self, values: Floats, x: Floats, num_tokens: int, y: Floats, _num_threads: int) -> None:
        inputs, sums = x.reshape(self.num_columns, num_tokens), y.reshape(self.num_rows, num_tokens)
        _multiply(self.rows, self.columns, values, inputs, sums)

    def multiply_transposed(self, values: Floats, x: Floats, num_tokens: int, y: Floats, _num_threads: int) -> None:
        order = np.argsort(self.columns, kind="stable")
        inputs, sums = x.reshape(self.num_rows, num_tokens), y.reshape(self.num_columns, num_tokens)
        _multiply(self.columns[order], self.rows[order], values[order], inputs, sums)

    def correlate_spikes(self, grad_y: Floats, bits: Bits, num_tokens: int, grad_values: Floats, threads: int) -> None:
        self.correlate(grad_y, self._unpacked(bits, num_tokens), num_tokens, grad_values, threads)

    def correlate(self, grad_y: Floats, x: Floats, num_tokens: int, grad_values: Floats, _num_threads: int) -> None:
        gradient, inputs = grad_y.reshape(self.num_rows, num_tokens), x.reshape(self.num_columns, num_tokens)
        for part in np.array_split(np.arange(len(grad_values)), max(1, len(grad_values) * num_tokens >> 20)):
            grad_values[part] = (gradient[self.rows[part]] * inputs[self.columns[part]]).sum(1)

    def _unpacked(self, bits: Bits, num_tokens: int) -> Floats:
        return unpack_rows(bits, self.num_columns, num_tokens).astype(np.float32).reshape(-1)


def _multiply(rows: Ints, inputs: Ints, values: Floats, x: Floats, y: Floats) -> None:
    """y[r] = sum over the synapses of row r, which stand together in `rows`, of value * x[input]."""
    y[:] = 0
    for block in range(0, len(x), SUM_INPUTS):
        inside = np.flatnonzero((inputs >= block) & (inputs < block + SUM_INPUTS))
        part = np.zeros_like(y)
        counts = np.bincount(rows[inside], minlength=len(y))
        starts = counts.cumsum() - counts
        for k in range(int(counts.max(initial=0))):
            longer = np.flatnonzero(counts > k)
            synapses = inside[starts[longer] + k]
            part[longer] += values[synapses, None] * x[inputs[synapses]]
        y += part
