"""Element types of checkpoint files, by safetensors' names. The kernels know the float ones by number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Element:
    """One element type.

    `code` is its number in the kernels (cpp/elements.hpp), None for what is not a float; `numpy` is NumPy's name of it,
    empty for what NumPy does not know.
    """

    name: str
    size_bytes: int
    kind: Literal["float", "int", "bool"]
    numpy: str
    code: int | None = None


ELEMENTS: Mapping[str, Element] = {
    element.name: element
    for element in (
        Element("F64", 8, "float", "<f8", 0),
        Element("F32", 4, "float", "<f4", 1),
        Element("F16", 2, "float", "<f2", 2),
        Element("BF16", 2, "float", "", 3),
        Element("F8_E4M3", 1, "float", "", 4),
        Element("F8_E5M2", 1, "float", "", 5),
        Element("I64", 8, "int", "<i8"),
        Element("I32", 4, "int", "<i4"),
        Element("I16", 2, "int", "<i2"),
        Element("I8", 1, "int", "|i1"),
        Element("U64", 8, "int", "<u8"),
        Element("U32", 4, "int", "<u4"),
        Element("U16", 2, "int", "<u2"),
        Element("U8", 1, "int", "|u1"),
        Element("BOOL", 1, "bool", "|b1"),
    )
}
