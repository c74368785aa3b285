"""Spherical interpolation of two tensors (Shoemake 1985): how much of each, from one look through both.

With the angle w between the two as vectors and the share t of the second, the result is
sin((1 - t) w) / sin(w) of the first plus sin(t w) / sin(w) of the second. Every machine gets the same bits: products
and sums are single operations on doubles in a fixed order, angles are decimals of 40 digits, and the two factors are
rounded to 26 binary places, by which the kernels then add up exactly. It is a rule for two and outside the laws: what
was merged by it cannot be regrouped.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from spikemesh.checkpoint.content import PIECE_BYTES
from spikemesh.checkpoint.elements import is_not_finite, widened
from spikemesh.checkpoint.plan import MergedTensor
from spikemesh.checkpoint.windows import Buffers, Stretch, for_each, stretches
from spikemesh.kernels import ELEMENTS

Angles = Mapping[str, tuple[Sequence[int], int]]
"""By tensor: the two weights as integers, and their divisor."""
Sums = tuple[float, float, float]
"""Of the products of both, of the first with itself, of the second with itself."""

DIVISOR = 1 << 26
DIGITS = 40
PARALLEL = Decimal("0.9995")
"""Beyond this cosine, or its negative, the straight line is taken, as others do."""


def find_angles(tensors: Sequence[MergedTensor], num_threads: int | None = None) -> Angles:
    """For the tensors that are to be interpolated; none for others."""
    asked = [tensor for tensor in tensors if tensor.slerp]
    parts: dict[str, dict[int, Sums]] = {tensor.name: {} for tensor in asked}
    lock = threading.Lock()

    def look(item: tuple[MergedTensor, Stretch], buffers: Buffers) -> None:
        tensor, stretch = item
        found = _sums(tensor, stretch, buffers)
        with lock:
            parts[tensor.name][stretch.start] = found

    if asked:
        items = (
            (tensor, stretch)
            for tensor in asked
            for stretch in stretches(tensor.result.num_elements, PIECE_BYTES // tensor.smallest_element_bytes)
        )
        for_each(items, look, num_threads=num_threads)
    return {tensor.name: (_factors(_total(parts[tensor.name]), tensor.weights), DIVISOR) for tensor in asked}


def _sums(tensor: MergedTensor, stretch: Stretch, buffers: Buffers) -> Sums:
    x, y = (_doubles(tensor, slot, stretch, buffers) for slot in range(2))
    with np.errstate(over="ignore", invalid="ignore"):
        return _halved(x * y), _halved(x * x), _halved(y * y)


def _doubles(tensor: MergedTensor, slot: int, stretch: Stretch, buffers: Buffers) -> npt.NDArray[np.float64]:
    source = tensor.sources[slot][1]
    width = source.element.size_bytes
    data = buffers(slot, stretch.count * width)
    source.read(stretch.start * width, data.data)
    values = widened(widened(data, source.element, tensor.element), tensor.element, ELEMENTS["F64"]).view("<f8").copy()
    values[is_not_finite(values.view(np.uint8), ELEMENTS["F64"])] = 0.0  # kept or refused later
    return values


def _halved(values: npt.NDArray[np.float64]) -> float:
    """Their sum: the second half is added to the first until one is left. NumPy's own order is not the same on all
    machines.
    """
    while len(values) > 1:
        half = len(values) // 2
        rest = values[2 * half :]
        values = np.concatenate([values[:half] + values[half : 2 * half], rest])
    return float(values[0]) if len(values) else 0.0


def _total(parts: Mapping[int, Sums]) -> Sums:
    """In the order of the stretches."""
    x = y = z = 0.0
    for start in sorted(parts):
        x, y, z = x + parts[start][0], y + parts[start][1], z + parts[start][2]
    return x, y, z


def _factors(sums: Sums, weights: Sequence[int]) -> Sequence[int]:
    """What to multiply each by, over `DIVISOR`. Along the straight line where the angle is none, flat, or not known."""
    shares = [Fraction(weight, sum(weights)) for weight in weights]
    straight = [max(1, round(share * DIVISOR)) for share in shares]
    product, first, second = (Decimal(value) for value in sums)
    if not all(value.is_finite() for value in (product, first, second)) or not first or not second:
        return straight
    with localcontext() as context:
        context.prec = DIGITS
        cosine = product / (first.sqrt() * second.sqrt())
        if abs(cosine) > PARALLEL:
            return straight
        angle = _arc_cosine(cosine)
        sine = _sine(angle)
        parts = [_sine(angle * share.numerator / share.denominator) / sine for share in shares]
    return [max(1, round(Fraction(part) * DIVISOR)) for part in parts]


def _sine(x: Decimal) -> Decimal:
    """Taylor's series, for 0 to pi."""
    term = total = x
    number = 1
    while abs(term) > Decimal(10) ** -DIGITS:
        number += 2
        term = -term * x * x / (number * (number - 1))
        total += term
    return total


def _arc_cosine(x: Decimal) -> Decimal:
    """By halving an interval: the cosine is the sine of what is left to a right angle."""
    low, high = Decimal(0), Decimal("3.2")
    for _ in range(4 * DIGITS):
        middle = (low + high) / 2
        if _cosine(middle) > x:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _cosine(x: Decimal) -> Decimal:
    term = total = Decimal(1)
    number = 0
    while abs(term) > Decimal(10) ** -DIGITS:
        number += 2
        term = -term * x * x / (number * (number - 1))
        total += term
    return total
