"""Raw elements of a stretch, where the kernels do not do it: another type, what is not finite, the larger integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from spikemesh.checkpoint.windows import Bytes
from spikemesh.kernels import Element, Rule, combine

Flags = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.unsignedinteger]

EXPONENTS = {"F64": 0x7FF0 << 48, "F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80, "F8_E4M3": 0x7F, "F8_E5M2": 0x7C}
"""What is not finite has at least these bits, apart from its sign. F8_E4M3 has no infinity."""
HAVE_INFINITY = frozenset(EXPONENTS) - {"F8_E4M3"}


def widened(data: Bytes, element: Element, to: Element) -> Bytes:
    """The same numbers, NaN and infinities in a type that holds them all."""
    if element == to:
        return data
    if element.name == "BF16":
        floats = (data.view("<u2").astype("<u4") << 16).view("<f4")
    elif element.size_bytes == 1:
        floats = _eighths(element)[data]
    else:
        floats = data.view(element.numpy)
    with np.errstate(invalid="ignore"):
        return np.ascontiguousarray(floats.astype(to.numpy, copy=False)).view(np.uint8)


@cache
def _eighths(element: Element) -> npt.NDArray[np.float32]:
    from spikemesh.kernels import ELEMENTS

    codes, values = np.arange(256, dtype=np.uint8), np.empty(1024, np.uint8)
    combine(Rule.MEAN, [codes], element=element, out=values, out_element=ELEMENTS["F32"], weights=[1])
    floats = values.view("<f4").copy()
    size = codes & 0x7F
    limit = EXPONENTS[element.name]
    floats[size >= limit] = np.nan
    if element.name in HAVE_INFINITY:
        floats[size == limit] = np.where(codes[size == limit] & 0x80, -np.inf, np.inf)
    floats[0x80] = -0.0
    return floats


def is_not_finite(data: Bytes, element: Element) -> Flags:
    """By element."""
    size, limit = _sizes(data, element)
    found: Flags = size >= limit
    return found


def _sizes(data: Bytes, element: Element) -> tuple[Bits, int]:
    bits: Bits = data.view(f"<u{element.size_bytes}")
    return np.bitwise_and(bits, bits.dtype.type((1 << (8 * element.size_bytes - 1)) - 1)), EXPONENTS[element.name]


def num_infinite(data: Bytes, element: Element) -> int:
    """Of either sign; what else is not finite is NaN."""
    sizes, limit = _sizes(data, element)
    return int(np.count_nonzero(sizes == limit)) if element.name in HAVE_INFINITY else 0


def settle(values: Sequence[Bytes], element: Element, out: Bytes, out_element: Element, *, spread: bool) -> Flags:
    """Put what is not finite into `out`: where it is the same bits in all `values`, those; else, where `spread`, what
    adding them up would give, whatever the order. Says where it is neither.
    """
    bits = [data.view(f"<u{element.size_bytes}") for data in values]
    flags = [is_not_finite(data, element) for data in values]
    concerned = np.logical_or.reduce(flags)
    alike = concerned & np.logical_and.reduce([other == bits[0] for other in bits[1:]] or [concerned])
    into = out.view(f"<u{out_element.size_bytes}")
    into[alike] = _as(bits[0][alike], element, out_element)
    rest: Flags = concerned & ~alike
    if not spread or not rest.any():
        return rest
    sign = 1 << (8 * element.size_bytes - 1)
    infinity = EXPONENTS[element.name] if element.name in HAVE_INFINITY else None
    plus, minus, others = (np.zeros(rest.shape, np.bool_) for _ in range(3))
    for value, flag in zip(bits, flags, strict=True):
        is_plus = flag & (value == infinity) if infinity is not None else np.zeros_like(flag)
        is_minus = flag & (value == infinity + sign) if infinity is not None else np.zeros_like(flag)
        plus, minus, others = plus | is_plus, minus | is_minus, others | (flag & ~is_plus & ~is_minus)
    result = np.full(rest.shape, _not_a_number(element), bits[0].dtype)
    if infinity is not None:
        result[plus & ~minus & ~others] = infinity
        result[minus & ~plus & ~others] = infinity + sign
    into[rest] = _as(result[rest], element, out_element)
    return np.zeros(rest.shape, np.bool_)


def _not_a_number(element: Element) -> int:
    """The quiet one without a sign or a message."""
    limit = EXPONENTS[element.name]
    return {"F64": limit | 1 << 51, "F32": limit | 1 << 22, "F16": limit | 1 << 9, "BF16": limit | 1 << 6}.get(
        element.name, 0x7F
    )


def _as(bits: Bits, element: Element, out_element: Element) -> Bits:
    """What is not finite, in another type: an infinity stays one, a NaN is the plain one."""
    if element == out_element:
        return bits
    sign, out_sign = 1 << (8 * element.size_bytes - 1), 1 << (8 * out_element.size_bytes - 1)
    out_dtype = f"<u{out_element.size_bytes}"
    found = np.full(bits.shape, _not_a_number(out_element), out_dtype)
    if element.name in HAVE_INFINITY and out_element.name in HAVE_INFINITY:
        limit = EXPONENTS[element.name]
        found[bits == limit] = EXPONENTS[out_element.name]
        found[bits == limit | sign] = EXPONENTS[out_element.name] | out_sign
    return found


@dataclass(frozen=True)
class Terms:
    """What the kernels add up."""

    values: Sequence[Bytes]
    weights: Sequence[int]
    base: Bytes | None


def positive(
    values: Sequence[Bytes], weights: Sequence[int], divisor: int, base: Bytes | None, element: Element
) -> Terms:
    """The same sum with no weight below zero: such an input changes its sign, and the base is one more input."""
    terms = list(zip(values, weights, strict=True))
    if base is not None:
        terms.append((base, divisor - sum(weights)))
    signed = [(value if weight > 0 else _negated(value, element), abs(weight)) for value, weight in terms if weight]
    return Terms([value for value, _ in signed], [weight for _, weight in signed], None)


def _negated(data: Bytes, element: Element) -> Bytes:
    bits: Bits = data.view(f"<u{element.size_bytes}")
    flipped: Bytes = np.bitwise_xor(bits, bits.dtype.type(1 << (8 * element.size_bytes - 1))).view(np.uint8)
    return flipped


def largest(values: Sequence[Bytes], element: Element) -> tuple[Bytes, int]:
    """The larger of integers or booleans, element by element; and how many are not the same everywhere."""
    views = [data.view("u1" if element.kind == "bool" else element.numpy) for data in values]
    result = np.maximum.reduce(views)
    differing = np.logical_or.reduce([view != views[0] for view in views[1:]] or [np.zeros(views[0].shape, np.bool_)])
    return np.ascontiguousarray(result).view(np.uint8), int(np.count_nonzero(differing))
