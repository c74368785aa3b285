"""Makes one start in a process of its own and prints, as JSON, what it took: `init_worker.py SIZE THREADS FOLDER`."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROCESS_START_S = time.monotonic()

from spikemesh.cli.init import CALIBRATION_WINDOWS, put_start  # noqa: E402
from spikemesh.cli.presets import find_preset  # noqa: E402
from spikemesh.snn import ModelConfig, init, layout_tensors  # noqa: E402
from spikemesh.store import Store  # noqa: E402
from spikemesh.store.writer import BlobWriter  # noqa: E402
from spikemesh.train import Corpus, Recipe, spread_windows  # noqa: E402

LARGE = ModelConfig(width=4096, hidden=16384, num_blocks=8)
"""1.1 billion places of today's family."""


class Clock:
    """How long some functions take, each by name; what they call of each other counts for both."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, owner: Any, name: str, step: str) -> None:
        """Count the time of `owner.name` as that of `step` from now on."""
        called: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            start_s = time.monotonic()
            try:
                return called(*arguments, **named)
            finally:
                self.seconds[step] = self.seconds.get(step, 0.0) + time.monotonic() - start_s

        setattr(owner, name, timed)


def main() -> None:
    size, threads, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    clock = Clock()
    clock.seconds["loading"] = time.monotonic() - PROCESS_START_S
    clock.watch(init, "draw_columns", "drawing masks")
    clock.watch(init, "draw_normals", "drawing weights")
    clock.watch(init, "mask_bits", "packing masks")
    clock.watch(init, "settle", "settling neurons")
    clock.watch(BlobWriter, "write", "writing")
    clock.watch(BlobWriter, "hashed", "hashing")
    clock.watch(Corpus, "load", "reading text")
    config, recipe = (LARGE, Recipe()) if size == "1100m" else find_preset(size)
    text = Corpus.load(None).train_text
    sample = spread_windows(text, num_windows=CALIBRATION_WINDOWS, num_tokens=recipe.num_tokens)
    with Store.open(folder) as store:
        digest = put_start(store, config, sample, seed=0, num_threads=threads)
        num_bytes = store.blobs.size(digest)
    seconds = time.monotonic() - PROCESS_START_S
    clock.seconds["the rest"] = seconds - sum(clock.seconds.values())
    answer = {
        "num_weights": config.num_weights,
        "num_synapses": sum(t.num_coordinates for t in layout_tensors(config) if t.masked),
        "seconds": seconds,
        "cpu_s": time.process_time(),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "shares": {step: spent / seconds for step, spent in clock.seconds.items()},
        "hash": digest.hex(),
        "num_bytes": num_bytes,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
