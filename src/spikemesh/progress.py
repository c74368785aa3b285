"""How long work tells how far it is: it is handed a `Progress`. Whether and how that is shown is decided above."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told what is going on: a label and how much of it there is, then, from any thread, how much more of it is done.

    `total` and `amount` are counted in `unit`, a plural: bytes, tensors, steps. A total of 0 is one that nobody knows.
    """

    def begin(self, label: str, total: int, unit: str = "bytes") -> None: ...

    def advance(self, amount: int) -> None: ...


class Silent:
    """Progress that nobody watches."""

    def begin(self, label: str, total: int, unit: str = "bytes") -> None: ...

    def advance(self, amount: int) -> None: ...


SILENT: Progress = Silent()
