"""Every way in which the kernels run on this machine, by name: the NumPy twin and each instruction set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

from spikemesh.kernels import Element, dispatch, instruction_set, native
from spikemesh.kernels.merge import combine_twin as twin
from spikemesh.kernels.merge.combine_twin import Bytes
from tests.kernels.reference import Counts, Window

COMPILED: tuple[str, ...] = () if native is None else native.instruction_sets
ALL = ("numpy", *COMPILED)
GUARD = np.full(67, 0xA5, np.uint8)
"""Stands on both sides of the result, and must stand there afterwards. Its odd length leaves nothing aligned."""


@contextmanager
def using(name: str) -> Iterator[None]:
    """What is called or made in here runs on this instruction set, or on NumPy."""
    if name == "numpy":
        with mock.patch.object(dispatch, "native", None):
            yield
        return
    native.use_instruction_set(name)
    try:
        yield
    finally:
        native.use_instruction_set(instruction_set)


def unaligned(data: bytes) -> Bytes:
    """An array of its own, at an odd address, that ends where its memory ends."""
    return np.frombuffer(bytearray(b"\0" + data), np.uint8)[1:]


def combine(name: str, window: Window, num_out_bytes: int | None = None) -> tuple[bytes, Counts]:
    """What one implementation makes of the window, and that it writes the result and nothing beside it."""
    size = window.num_coordinates * window.out_element.size_bytes if num_out_bytes is None else num_out_bytes
    memory = np.concatenate([GUARD, np.zeros(size, np.uint8), GUARD])
    out = memory[len(GUARD) : len(GUARD) + size]
    asked: tuple[Any, ...] = (
        int(window.rule),
        [unaligned(data) for data in window.inputs],
        list(window.weights),
        window.divisor,
        None if window.base is None else unaligned(window.base),
        None if window.mask is None else unaligned(window.mask),
        window.element.code,
        window.out_element.code,
        out,
    )
    if name == "numpy":
        *counts, first_bad, first_bad_base = twin.combine(*asked)
    else:
        with using(name):
            *counts, first_bad, first_bad_base = native.combine(*asked)
    assert np.array_equal(memory[: len(GUARD)], GUARD)
    assert np.array_equal(memory[len(GUARD) + size :], GUARD)
    return out.tobytes(), Counts(*counts, tuple(first_bad), first_bad_base)


def scan(name: str, data: bytes, element: Element) -> tuple[int, int, float, float]:
    if name == "numpy":
        assert element.code is not None
        return twin.scan(unaligned(data), element.code)
    with using(name):
        nonzero, non_finite, smallest, largest = native.scan(unaligned(data), element.code)
    return nonzero, non_finite, smallest, largest
