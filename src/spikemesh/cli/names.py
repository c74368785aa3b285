"""Names of files and tensors, which may hold anything, as a terminal and a program may be given them."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from pathlib import Path

SHOWN = 5


def shown(name: str | Path) -> str:
    """The name, with whatever moves a cursor, hides or reorders other text, or is no text at all, escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(name))


def some(names: Collection[str]) -> str:
    """The first few of them, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(shown, islice(names, SHOWN))) + more


def counted(number: int, what: str) -> str:
    """1 tensor, 2 tensors."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def encoded(value: object) -> str:
    """Paths and fractions for JSON; bytes of a file name that are no text become U+FFFD."""
    return str(value).encode(errors="surrogateescape").decode(errors="replace")
