"""Wall and CPU time inside a process. Needs the standard library alone: it also runs in the peers' environment."""

import json
import resource
import time


class Stopwatch:
    """Started when made; `tell` prints what each lap ended at, as one line of JSON."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.perf_counter(), _cpu_s()
        self._laps: dict[str, dict[str, float]] = {}

    def lap(self, name: str) -> None:
        self._laps[name] = {"wall_s": time.perf_counter() - self._wall_s, "cpu_s": _cpu_s() - self._cpu_s}

    def tell(self) -> None:
        print(json.dumps(self._laps))


def _cpu_s() -> float:
    """Of all threads, and of children that ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
