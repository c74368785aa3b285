"""Merges what it is given, in a process of its own, and prints how much private memory that took at most.

python -m tests.checkpoint.measured_merge OUT A B ...
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from spikemesh.checkpoint import merge


def private_bytes() -> int:
    """Memory that is this process's alone, without what is mapped from files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


class Meter(threading.Thread):
    """Looks every millisecond."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.stopped = False

    def run(self) -> None:
        while not self.stopped:
            self.peak = max(self.peak, private_bytes())
            time.sleep(0.001)


if __name__ == "__main__":
    if any(path.endswith(".pt") for path in sys.argv):
        import torch  # noqa: F401
    before = private_bytes()
    meter = Meter()
    meter.start()
    merge(sys.argv[2:], out=sys.argv[1], num_threads=2)
    meter.stopped = True
    meter.join()
    print(meter.peak - before)  # noqa: T201
