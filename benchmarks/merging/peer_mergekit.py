"""Runs in the peers' environment: mergekit's in-memory API, linear, timed after imports and a first, tiny merge.

`peer_mergekit.py OUT TINY_A TINY_B A B`. The lap "merged" is after reading and merging, "written" with writing too.
"""

import sys
from pathlib import Path

from mergekit.merge_methods import merge_state_dicts
from safetensors.torch import load_file, save_file
from stopwatch import Stopwatch

out, *paths = sys.argv[1:]
for inputs in (paths[:2], paths[2:]):
    Path(out).unlink(missing_ok=True)
    stopwatch = Stopwatch()
    models = [load_file(path) for path in inputs]
    merged = merge_state_dicts(models, "linear", parameters={"weight": [0.5, 0.5]})
    stopwatch.lap("merged")
    save_file(merged, out)
    stopwatch.lap("written")
stopwatch.tell()
