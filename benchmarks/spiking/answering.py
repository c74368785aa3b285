"""The worker's side of `rounds`. Imports nothing but the standard library, as it runs in other environments too."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any


def answer(step: Callable[[], dict[str, Any] | None], facts: dict[str, Any], clock: str = "cpu") -> None:
    """Time one `step` for every line on the standard input; what it returns is told as well."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    print(json.dumps(facts), flush=True)
    for _line in sys.stdin:
        start = now()
        told = step()
        seconds = now() - start
        print(json.dumps({"seconds": seconds, **(told or {})}), flush=True)
