"""Exit codes: one table, which also prints in the help."""

from __future__ import annotations

from spikemesh.errors import (
    CheckpointError,
    DataError,
    Divergence,
    InvalidData,
    SpikemeshError,
    StoreCorrupt,
    StoreError,
    StoreFull,
    TicketError,
    TransportError,
)

EXIT_CODES: tuple[tuple[int, type[BaseException], str], ...] = (
    (130, KeyboardInterrupt, "interrupted; the same command goes on"),
    (3, TicketError, "the ticket or folder names no run"),
    (4, TransportError, "no peer could be reached"),
    (5, StoreFull, "the disk is full"),
    (6, StoreCorrupt, "bytes on the disk are damaged"),
    (7, StoreError, "the folder cannot be used"),
    (8, DataError, "the training text cannot be used"),
    (9, Divergence, "the same inputs gave another result"),
    (10, InvalidData, "bytes from outside are invalid"),
    (11, CheckpointError, "checkpoints do not fit together, or one is missing"),
    (1, SpikemeshError, "another error that is explained"),
    (2, ValueError, "unusable arguments"),
)
"""(code, error, meaning); the first class that fits counts."""

EXIT_CODES_HELP = "Exit codes: 0 done · " + " · ".join(
    f"{code} {text}" for code, _, text in sorted(EXIT_CODES, key=lambda row: row[0])
)


def first_error(error: BaseException) -> BaseException | None:
    """The error to show: the first explained one, also inside a group; None if nothing here was expected."""
    if isinstance(error, BaseExceptionGroup):
        return next((known for inner in error.exceptions if (known := first_error(inner)) is not None), None)
    return error if isinstance(error, SpikemeshError | KeyboardInterrupt) else None


def exit_code(error: BaseException) -> int:
    return next(code for code, kind, _ in EXIT_CODES if isinstance(error, kind))
