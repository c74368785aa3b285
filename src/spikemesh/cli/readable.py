"""Numbers, digests and outside text the way people read them. The report and the live display share these."""

from __future__ import annotations

import math
import unicodedata
import zlib
from collections.abc import Iterable

NO_VALUE = "–"
NUM_COLOURS = 12
SUBSTITUTE = "\N{REPLACEMENT CHARACTER}"


def bytes_text(num_bytes: float) -> str:
    """Three digits with a decimal unit: 999 B, 1.23 kB, 45.6 MB."""
    value, units = float(num_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{three_digits(value) if units[0] != 'B' else round(value)} {units[0]}"


def count_text(count: float) -> str:
    """Three digits and a letter for large counts: 999, 1.23k, 45.6M."""
    value, letters = float(count), ["", "k", "M", "G", "T"]
    while value >= 999.5 and len(letters) > 1:
        value, letters = value / 1000, letters[1:]
    return f"{three_digits(value) if letters[0] else round(value)}{letters[0]}"


def duration_text(seconds: float) -> str:
    """5 s, 3 min 20 s, 2 h 05 min."""
    if not math.isfinite(seconds):
        return NO_VALUE
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def minutes_text(seconds: float) -> str:
    """3:07 minutes."""
    whole = max(0, int(seconds))
    return f"{whole // 60}:{whole % 60:02}"


def clock_text(seconds: float) -> str:
    """[  3:07], what a line of a log begins with."""
    return f"[{minutes_text(seconds):>6}]"


def decimal_text(value: float | None, places: int = 3) -> str:
    return NO_VALUE if value is None else f"{value:.{places}f}"


def percent_text(fraction: float | None, places: int = 1) -> str:
    return NO_VALUE if fraction is None else f"{100 * fraction:.{places}f} %"


def three_digits(value: float) -> str:
    return f"{value:.{max(0, 2 - (math.floor(math.log10(value)) if value >= 1 else 0))}f}"


def printable(text: str) -> str:
    """`text` without anything that moves a cursor, hides or reorders other text. Line ends and tabs stay.

    A model's sample is arbitrary bytes, and a terminal obeys what it is sent.
    """
    return "".join(char if _harmless(char) else SUBSTITUTE for char in text.replace("\r\n", "\n"))


def one_line(text: str, limit: int = 60) -> str:
    """`printable` on a single line of at most `limit` characters."""
    flat = " ".join(printable(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def _harmless(char: str) -> bool:
    return char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def digest_colours(digests: Iterable[str]) -> dict[str, int]:
    """A colour number 0..11 for each digest. Equal digests share one; up to twelve different ones never do.

    A digest keeps its number from one call to the next unless another one claims the same.
    """
    chosen: dict[str, int] = {}
    for digest in sorted(set(digests)):
        taken = set(chosen.values()) if len(chosen) < NUM_COLOURS else set()
        colour = zlib.crc32(digest.encode("utf-8", "replace")) % NUM_COLOURS
        while colour in taken:
            colour = (colour + 1) % NUM_COLOURS
        chosen[digest] = colour
    return chosen
