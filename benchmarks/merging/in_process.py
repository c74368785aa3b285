"""`spikemesh.merge` in a process that has imported it and done a first, tiny merge: what reading, checking, merging,
hashing and writing take.

`in_process.py OUT TINY_A TINY_B A B`.
"""

import sys
from pathlib import Path

from stopwatch import Stopwatch

import spikemesh

out, *paths = sys.argv[1:]
for inputs in (paths[:2], paths[2:]):
    Path(out).unlink(missing_ok=True)
    stopwatch = Stopwatch()
    spikemesh.merge([Path(path) for path in inputs], out=Path(out))
    stopwatch.lap("written")
stopwatch.tell()
