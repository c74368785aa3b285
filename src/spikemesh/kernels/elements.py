"""Element types of checkpoint files, by safetensors' names. The kernels know the float ones by number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Element:
    """One element type; `code` is its number in the kernels (cpp/elements.hpp), None for what is not a float."""

    name: str
    size_bytes: int
    kind: Literal["float", "int", "bool"]
    code: int | None = None


ELEMENTS: Mapping[str, Element] = {
    element.name: element
    for element in (
        Element("F64", 8, "float", 0),
        Element("F32", 4, "float", 1),
        Element("F16", 2, "float", 2),
        Element("BF16", 2, "float", 3),
        Element("F8_E4M3", 1, "float", 4),
        Element("F8_E5M2", 1, "float", 5),
        Element("I64", 8, "int"),
        Element("I32", 4, "int"),
        Element("I16", 2, "int"),
        Element("I8", 1, "int"),
        Element("U64", 8, "int"),
        Element("U32", 4, "int"),
        Element("U16", 2, "int"),
        Element("U8", 1, "int"),
        Element("BOOL", 1, "bool"),
    )
}
