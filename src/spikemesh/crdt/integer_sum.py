"""The exact sum: what all visible contributions add up to, in int64, the same bits in any order on any hardware.

One coordinate of one contribution adds `weight * quantum`, |weight| <= 2**12 and |quantum| < 2**27 (a level below
2**7, a scale mantissa below 2**4, a scale exponent of at most 16). So 2**20 contributions on one coordinate stay
below 2**59 of the 2**63 that int64 holds: addition never wraps, hence it is associative and commutative.
Hallberg & Adcroft 2014 (order-invariant sums of fixed-point numbers); Sapio et al. 2019 (SwitchML, integer gradients).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from spikemesh.crdt.records import WEIGHT_ONE

CHUNK_COORDINATES = 65_536
"""Coordinates per chunk of the sum, of a delta and of their digests."""

QUANTUM_BITS = 27
"""|quantum| < 2**QUANTUM_BITS."""

MAX_CONTRIBUTIONS = 1 << 20
"""Up to so many contributions on one coordinate the sum is proven not to wrap."""


@dataclass(frozen=True, eq=False)
class Delta:
    """A sparse integer vector: `quanta[k]` (int32) at the strictly ascending coordinates `indices[k]` (int64)."""

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


@dataclass(frozen=True, eq=False)
class Chunk:
    """The sum over up to CHUNK_COORDINATES neighbouring coordinates: int64, read-only, shared between sums."""

    values: npt.NDArray[np.int64]

    @cached_property
    def digest(self) -> bytes:
        return blake3(self.to_bytes()).digest()

    def to_bytes(self) -> bytes:
        return self.values.astype("<i8", copy=False).tobytes()


def _frozen(values: npt.NDArray[np.int64]) -> Chunk:
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
        """Read back what `Chunk.to_bytes` wrote; `ValueError` if the sizes are not those of this layout."""
        arrays = [np.frombuffer(data, "<i8").astype(np.int64) for data in chunks]
        sizes = _chunk_sizes(num_coordinates)
        if [len(a) for a in arrays] != sizes:
            raise ValueError(f"expected chunks of {sizes} coordinates, got {[len(a) for a in arrays]}")
        return cls(num_coordinates, tuple(_frozen(a) for a in arrays))

    def fold(self, terms: Iterable[tuple[Delta, int]]) -> IntegerSum:
        """Add `weight * delta` for every (delta, weight); a negative weight unfolds. Touched chunks are copied once."""
        fresh: dict[int, npt.NDArray[np.int64]] = {}
        for delta, weight in terms:
            if delta.num_coordinates != self.num_coordinates:
                raise ValueError(
                    f"a delta over {delta.num_coordinates} coordinates does not fit a sum over {self.num_coordinates}"
                )
            if not 0 < abs(weight) <= WEIGHT_ONE:
                raise ValueError(f"a weight is 1..{WEIGHT_ONE} of 1/{WEIGHT_ONE}ths, got {weight}")
            for number, start, stop in _touched(delta):
                if number not in fresh:
                    fresh[number] = self.chunks[number].values.copy()
                local = delta.indices[start:stop] - number * CHUNK_COORDINATES
                fresh[number][local] += delta.quanta[start:stop] * np.int64(weight)
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
    starts = range(0, num_coordinates, CHUNK_COORDINATES)
    return [min(CHUNK_COORDINATES, num_coordinates - start) for start in starts]


def _touched(delta: Delta) -> Iterator[tuple[int, int, int]]:
    """(chunk number, first, past-last position in the delta) for every chunk that the delta sends something to."""
    num_chunks = -(-delta.num_coordinates // CHUNK_COORDINATES)
    bounds = np.searchsorted(delta.indices, np.arange(num_chunks + 1) * CHUNK_COORDINATES)
    for number in range(num_chunks):
        if bounds[number] < bounds[number + 1]:
            yield number, int(bounds[number]), int(bounds[number + 1])
