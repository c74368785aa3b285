"""How long a test waits for what has to happen before it calls it a hang.

No machine needs this long for any of it, so the number tells an end from none and never a fast machine from a slow
one. What must happen *soon* is counted (calls, rounds, bytes) or runs on a virtual clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable

HANG_S = 300.0
LOOK_S = 0.02


def until(condition: Callable[[], bool], told: Callable[[], object], look: Callable[[], None] = lambda: None) -> float:
    """Seconds until what other processes bring about holds. Fails with `told()` if it hangs; `look` may fail sooner."""
    start_s = time.monotonic()
    while not condition():
        look()
        if time.monotonic() > start_s + HANG_S:
            raise AssertionError(f"did not happen within {HANG_S:.0f} s: {told()}")
        time.sleep(LOOK_S)
    return time.monotonic() - start_s
