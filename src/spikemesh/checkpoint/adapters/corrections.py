"""What rounding lost, in few bits: how many steps of its type a number is away from what was predicted of it.

    piece     = lengths (u32) | a bitmap of the elements that are off | for those, byte by byte, the zigzag of the steps
    a length of 0 stands for nothing but zeros; everything is Huffman-coded (zlib), so that zeros cost little

Steps count along the type's numbers in order, from the lowest to the highest, so that any bits can be told, -0 and NaN
included. A prediction is off where the sum has a larger exponent than the base: rarely, and by little.
"""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from spikemesh.checkpoint.windows import Bytes
from spikemesh.errors import InvalidData
from spikemesh.kernels import Element

Words = npt.NDArray[np.unsignedinteger]


def encode_corrections(values: Bytes, predicted: Bytes, element: Element) -> bytes:
    """What turns `predicted` into `values`, both raw elements; nothing where they are the same."""
    steps = _order(values, element) - _order(predicted, element)
    codes = (steps << 1) ^ (np.zeros_like(steps) - (steps >> _top_bit(element)))
    is_off = codes != 0
    if not is_off.any():
        return b""
    planes = np.ascontiguousarray(codes[is_off].view(np.uint8).reshape(-1, element.size_bytes).T)
    parts = [_packed(np.packbits(is_off)), *map(_packed, planes)]
    return struct.pack(f"<{len(parts)}I", *map(len, parts)) + b"".join(parts)


def apply_corrections(predicted: Bytes, piece: bytes, element: Element) -> Bytes:
    """The values again. `InvalidData` if the piece is not one of as many elements."""
    if not piece:
        return predicted
    count = len(predicted) // element.size_bytes
    lengths = struct.Struct(f"<{1 + element.size_bytes}I")
    if len(piece) < lengths.size or lengths.size + sum(sizes := lengths.unpack_from(piece)) != len(piece):
        raise InvalidData("a piece of the remainder is not as long as it says.")
    ends = np.cumsum((lengths.size, *sizes)).tolist()
    parts = [piece[start:end] for start, end in pairwise(ends)]
    is_off = np.unpackbits(_unpacked(parts[0], -(-count // 8)), count=count).view(np.bool_)
    num_off = int(np.count_nonzero(is_off))
    planes = np.stack([_unpacked(part, num_off) for part in parts[1:]], axis=1)
    codes = planes.reshape(-1).view(f"<u{element.size_bytes}")
    order = _order(predicted, element)
    order[is_off] += (codes >> 1) ^ (np.zeros_like(codes) - (codes & 1))
    return _bits(order, element)


def _packed(data: Bytes) -> bytes:
    if not data.any():
        return b""
    packer = zlib.compressobj(level=1, wbits=-15, strategy=zlib.Z_HUFFMAN_ONLY)
    return packer.compress(data.data) + packer.flush()


def _unpacked(data: bytes, size: int) -> Bytes:
    if not data:
        return np.zeros(size, np.uint8)
    unpacker = zlib.decompressobj(wbits=-15)
    try:
        found = unpacker.decompress(data, size + 1)
    except zlib.error as error:
        raise InvalidData(f"a piece of the remainder is damaged ({error}).") from error
    if len(found) != size or not unpacker.eof or unpacker.unused_data:
        raise InvalidData(f"a piece of the remainder is damaged: expected {size} bytes in it.")
    return np.frombuffer(found, np.uint8)


def _top_bit(element: Element) -> int:
    return 8 * element.size_bytes - 1


def _order(data: Bytes, element: Element) -> Words:
    """Bit patterns as unsigned numbers in the order of what they mean: all negative ones below all positive ones."""
    words: Words = data.view(f"<u{element.size_bytes}")
    sign = words.dtype.type(1 << _top_bit(element))
    return np.where(words & sign, ~words, words | sign)


def _bits(order: Words, element: Element) -> Bytes:
    sign = order.dtype.type(1 << _top_bit(element))
    return np.where(order & sign, order ^ sign, ~order).view(np.uint8)
