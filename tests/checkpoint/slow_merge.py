"""`spikemesh` with a merge that takes its time over every stretch, and says so, to be stopped in the middle.

python -m tests.checkpoint.slow_merge SECONDS merge A B -o OUT
"""

from __future__ import annotations

import sys
import time
from typing import Any

from spikemesh import cli
from spikemesh.checkpoint import engine

STRETCH = "another stretch\n"

if __name__ == "__main__":
    seconds = float(sys.argv.pop(1))
    combine = engine.combine

    def slowly(*args: Any, **kwargs: Any) -> Any:
        sys.stderr.write(STRETCH)
        time.sleep(seconds)
        return combine(*args, **kwargs)

    engine.combine = slowly
    cli.main()
