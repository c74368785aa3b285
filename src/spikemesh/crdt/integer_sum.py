"""The exact sum: what all visible contributions add up to, in int64, the same bits in any order on any hardware.

One coordinate of one contribution adds `weight * quantum`, |weight| <= 2**12 and |quantum| < 2**27 (a level below
2**7, a scale mantissa below 2**4, a scale exponent of at most 16). So 2**20 contributions on one coordinate stay
below 2**59 of the 2**63 that int64 holds: addition never wraps, hence it is associative and commutative.
Hallberg & Adcroft 2014 (order-invariant sums of fixed-point numbers); Sapio et al. 2019 (SwitchML, integer gradients).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from spikemesh.crdt.records import WEIGHT_ONE
from spikemesh.kernels.delta.positions_twin import CHUNK_COORDINATES, chunk_sizes, num_chunks

QUANTUM_BITS = 27
"""|quantum| < 2**QUANTUM_BITS."""

MAX_CONTRIBUTIONS = 1 << 20
"""Up to so many contributions on one coordinate the sum is proven not to wrap."""


Sums = npt.NDArray[np.int64]


class Addend(Protocol):
    """What a sum folds: an integer vector over the coordinates, below 2**QUANTUM_BITS, however it is kept."""

    @property
    def num_coordinates(self) -> int: ...

    def touched(self) -> Sequence[int]:
        """The numbers of the chunks in which it may be other than zero, ascending."""
        ...

    def add(self, weight: int, before: Sequence[Sums], after: Sequence[Sums]) -> None:
        """after = before + weight * this, in the chunks that it touches, in their order. Both may be the same array."""
        ...


@dataclass(frozen=True, eq=False)
class Delta:
    """The plain addend: `quanta[k]` (int32) at the strictly ascending coordinates `indices[k]` (int64)."""

    num_coordinates: int
    indices: npt.NDArray[np.int64]
    quanta: npt.NDArray[np.int32]

    def __post_init__(self) -> None:
        if self.indices.shape != self.quanta.shape or self.indices.ndim != 1:
            raise ValueError(f"indices and quanta must be equally long: {self.indices.shape}, {self.quanta.shape}")
        if self.indices.dtype != np.int64 or self.quanta.dtype != np.int32:
            raise ValueError(f"expected int64 and int32, got {self.indices.dtype} and {self.quanta.dtype}")
        if not len(self.indices):
            return
        if self.indices[0] < 0 or self.indices[-1] >= self.num_coordinates:
            raise ValueError(f"coordinates must lie in 0..{self.num_coordinates - 1}")
        if not bool((np.diff(self.indices) > 0).all()):
            raise ValueError("coordinates must be strictly ascending")
        if int(np.abs(self.quanta.astype(np.int64)).max()) >= 1 << QUANTUM_BITS:
            raise ValueError(f"a quantum needs more than {QUANTUM_BITS} bits")

    def touched(self) -> list[int]:
        bounds = self._bounds()
        return [int(number) for number in np.flatnonzero(bounds[:-1] < bounds[1:])]

    def add(self, weight: int, before: Sequence[Sums], after: Sequence[Sums]) -> None:
        bounds = self._bounds()
        for number, old, new in zip(self.touched(), before, after, strict=True):
            part = slice(bounds[number], bounds[number + 1])
            if new is not old:
                np.copyto(new, old)
            new[self.indices[part] - number * CHUNK_COORDINATES] += self.quanta[part] * np.int64(weight)

    def _bounds(self) -> Sums:
        """Where each chunk's values begin, and the end of the last."""
        starts = np.arange(num_chunks(self.num_coordinates) + 1) * CHUNK_COORDINATES
        return np.searchsorted(self.indices, starts)


@dataclass(frozen=True, eq=False)
class Chunk:
    """The sum over up to CHUNK_COORDINATES neighbouring coordinates: int64, read-only, shared between sums."""

    values: Sums

    @cached_property
    def digest(self) -> bytes:
        return blake3(self.data).digest()

    @property
    def data(self) -> memoryview:
        """The bytes as they are stored and sent, little-endian; not a copy where the machine keeps them so too."""
        return self.values.astype("<i8", copy=False).data.cast("B")

    def to_bytes(self) -> bytes:
        return self.data.tobytes()


def _frozen(values: Sums) -> Chunk:
    values.flags.writeable = False
    return Chunk(values)


@dataclass(frozen=True, eq=False)
class IntegerSum:
    """An int64 vector over the coordinates, in chunks. A value: folding returns a new one."""

    num_coordinates: int
    chunks: tuple[Chunk, ...]

    @classmethod
    def zero(cls, num_coordinates: int) -> IntegerSum:
        sizes = _chunk_sizes(num_coordinates)
        return cls(num_coordinates, tuple(_frozen(np.zeros(size, np.int64)) for size in sizes))

    @classmethod
    def from_bytes(cls, num_coordinates: int, chunks: Iterable[bytes]) -> IntegerSum:
        """Read back what `Chunk.to_bytes` wrote, without copying it where the machine is little-endian too.

        `ValueError` if the sizes are not those of this layout.
        """
        arrays = [np.frombuffer(data, "<i8").astype(np.int64, copy=False) for data in chunks]
        sizes = _chunk_sizes(num_coordinates)
        if [len(a) for a in arrays] != sizes:
            raise ValueError(f"expected chunks of {sizes} coordinates, got {[len(a) for a in arrays]}")
        return cls(num_coordinates, tuple(_frozen(a) for a in arrays))

    def fold(self, terms: Iterable[tuple[Addend, int]]) -> IntegerSum:
        """Add `weight * addend` for every (addend, weight); a negative weight unfolds.

        Chunks that no addend touches are shared with the new sum; the others are read once and written once.
        """
        fresh: dict[int, Sums] = {}
        for addend, weight in terms:
            if addend.num_coordinates != self.num_coordinates:
                raise ValueError(
                    f"a delta over {addend.num_coordinates} coordinates does not fit a sum over {self.num_coordinates}"
                )
            if not 0 < abs(weight) <= WEIGHT_ONE:
                raise ValueError(f"a weight is 1..{WEIGHT_ONE} of 1/{WEIGHT_ONE}ths, got {weight}")
            touched = addend.touched()
            before = [fresh[number] if number in fresh else self.chunks[number].values for number in touched]
            for number in touched:
                if number not in fresh:
                    fresh[number] = np.empty_like(self.chunks[number].values)
            addend.add(weight, before, [fresh[number] for number in touched])
        if not fresh:
            return self
        chunks = tuple(_frozen(fresh[i]) if i in fresh else chunk for i, chunk in enumerate(self.chunks))
        return IntegerSum(self.num_coordinates, chunks)

    def resolve(self, theta0: npt.NDArray[np.float32], grid_exponent: int) -> npt.NDArray[np.float32]:
        """The weights that the sum stands for: theta0 + sum * 2**grid_exponent / WEIGHT_ONE, rounded to float32.

        Every step is one IEEE double operation per coordinate, so all hardware agrees on the bits.
        """
        if theta0.shape != (self.num_coordinates,):
            raise ValueError(f"theta0 must have {self.num_coordinates} elements, got shape {theta0.shape}")
        unit = 2.0**grid_exponent / WEIGHT_ONE
        theta = np.empty(self.num_coordinates, np.float32)
        for number, chunk in enumerate(self.chunks):
            part = slice(number * CHUNK_COORDINATES, number * CHUNK_COORDINATES + len(chunk.values))
            theta[part] = theta0[part].astype(np.float64) + chunk.values.astype(np.float64) * unit
        return theta

    @cached_property
    def digest(self) -> bytes:
        """32 bytes over all chunk digests: equal for equal sums."""
        return blake3(b"".join(chunk.digest for chunk in self.chunks)).digest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IntegerSum):
            return NotImplemented
        return self.num_coordinates == other.num_coordinates and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def _chunk_sizes(num_coordinates: int) -> list[int]:
    if num_coordinates < 1:
        raise ValueError(f"a run has at least one coordinate, not {num_coordinates}")
    return [int(size) for size in chunk_sizes(num_coordinates)]
