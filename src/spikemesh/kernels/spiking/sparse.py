"""Products with a matrix of synapses: their values, and a fixed pattern of where they are.

Compiled code where it was built, the NumPy twin elsewhere. Activations are float32 [features, tokens], so that each
synapse is one vector operation over the tokens. Spikes are packed into bits (`spikes`). Sums are made of 192 inputs at
a time, in the order of the synapses, and then of these sums: sums of spikes are the same bits from every
implementation, and those of a dense product in MKL. Neurons are sensitive: a last bit can be a spike.

Letters: R row (output), F column (input feature), T token, S synapse.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spikemesh.kernels.dispatch import implementation
from spikemesh.kernels.spiking.spikes import num_bit_bytes

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint8]


class Pattern:
    """Where the synapses of a matrix [R, F] are, in row-major order. Its arrays must not be written to.

    `starts` int64 [R + 1]: row r has the synapses starts[r]..starts[r+1]-1; `columns` int32 [S]: rising in each row.
    Raises `ValueError` for anything else.
    """

    def __init__(self, starts: npt.NDArray[np.int64], columns: npt.NDArray[np.int32], num_columns: int) -> None:
        self.starts = starts
        self.columns = columns
        self.num_rows = len(starts) - 1
        self.num_columns = num_columns
        self.num_synapses = len(columns)
        self._kernels: Any = implementation("spiking.sparse_twin").Pattern(starts, columns, num_columns)

    @classmethod
    def of(cls, mask: npt.NDArray[np.bool_]) -> Pattern:
        """The ones of a mask [R, F]."""
        starts = np.concatenate([np.zeros(1, np.int64), mask.sum(1, dtype=np.int64).cumsum()])
        return cls(starts, mask.nonzero()[1].astype(np.int32), mask.shape[1])

    @property
    def num_bytes(self) -> int:
        """What it keeps in memory: for each synapse its column and, by columns, its row."""
        return self.starts.nbytes + 8 * (self.num_columns + 1) + 2 * self.columns.nbytes

    def __deepcopy__(self, _memo: object) -> Pattern:
        return self

    def rows(self) -> npt.NDArray[np.int64]:
        """The row of each synapse [S]."""
        return np.repeat(np.arange(self.num_rows), np.diff(self.starts))

    def mask(self) -> npt.NDArray[np.bool_]:
        """[R, F], True where a synapse is."""
        mask = np.zeros((self.num_rows, self.num_columns), np.bool_)
        mask[self.rows(), self.columns] = True
        return mask

    def empty_bits(self, num_tokens: int) -> Bits:
        """Room for the packed spikes of all columns."""
        return np.empty(num_bit_bytes(self.num_columns, num_tokens), np.uint8)

    def pack(self, x: Floats, bits: Bits, *, first: int = 0, num_threads: int = 1) -> bool:
        """x != 0 into `bits`, for the columns from `first` on; False if there is anything but zeros and ones in x."""
        if x.size == 0:
            return True
        binary: bool = self._kernels.pack_spikes(_flat(x), x.shape[1], first, bits, num_threads)
        return binary

    def multiply_spikes(self, values: Floats, bits: Bits, y: Floats, *, num_threads: int = 1) -> None:
        """y [R, T] = synapses times packed spikes [F, T]."""
        self._kernels.multiply_spikes(values, bits, y.shape[1], _flat(y), num_threads)

    def multiply(self, values: Floats, x: Floats, y: Floats, *, num_threads: int = 1) -> None:
        """y [R, T] = synapses times x [F, T]."""
        self._kernels.multiply(values, _flat(x), y.shape[1], _flat(y), num_threads)

    def multiply_transposed(self, values: Floats, x: Floats, y: Floats, *, num_threads: int = 1) -> None:
        """y [F, T] = transposed synapses times x [R, T]: the gradient of a product's input."""
        self._kernels.multiply_transposed(values, _flat(x), y.shape[1], _flat(y), num_threads)

    def correlate_spikes(self, grad_y: Floats, bits: Bits, grad_values: Floats, *, num_threads: int = 1) -> None:
        """grad_values [S] = sum over tokens of grad_y [R, T] at the synapse's row where its input fired."""
        self._kernels.correlate_spikes(_flat(grad_y), bits, grad_y.shape[1], grad_values, num_threads)

    def correlate(self, grad_y: Floats, x: Floats, grad_values: Floats, *, num_threads: int = 1) -> None:
        """grad_values [S] = sum over tokens of grad_y [R, T] at the synapse's row times x [F, T] at its column."""
        self._kernels.correlate(_flat(grad_y), _flat(x), grad_y.shape[1], grad_values, num_threads)


def _flat(array: Floats) -> Floats:
    """A view: what is written to it is written to the array."""
    if not array.flags.c_contiguous:
        raise ValueError(f"expected a contiguous array, got shape {array.shape} with strides {array.strides}")
    return array.reshape(-1)
