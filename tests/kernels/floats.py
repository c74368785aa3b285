"""Float arrays for kernels: results with guards around them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

GUARD = np.full(19, -1.5e30, np.float32)


class Guarded:
    """Rooms for results, filled with NaN; `check` says whether all of them were written, and nothing beside them."""

    def __init__(self) -> None:
        self._rooms: list[tuple[Floats, Floats]] = []

    def room(self, shape: tuple[int, ...], axes: tuple[int, ...] | None = None) -> Floats:
        """An array of this shape; `axes` is the order in which its axes lie in memory."""
        order = tuple(range(len(shape))) if axes is None else axes
        size = int(np.prod(shape))
        memory = np.concatenate([GUARD, np.full(size, np.nan, np.float32), GUARD])
        array = memory[len(GUARD) : len(GUARD) + size].reshape([shape[axis] for axis in order])
        self._rooms.append((memory, array))
        return array.transpose(np.argsort(order))

    def check(self) -> None:
        for memory, array in self._rooms:
            assert np.array_equal(memory[: len(GUARD)], GUARD)
            assert np.array_equal(memory[len(GUARD) + array.size :], GUARD)
            assert not np.isnan(array).any()
