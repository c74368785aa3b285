"""One hypothesis profile for every room: the same examples on every run, and a failure prints how to repeat it."""

from __future__ import annotations

import os
import signal
import threading

from hypothesis import HealthCheck, settings

settings.register_profile(
    "spikemesh",
    derandomize=True,
    deadline=None,
    print_blob=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("spikemesh")

# Tests started in a shell's background would ignore SIGINT, and with them every process that they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Several workers of pytest-xdist share the processors already; before torch is loaded, here and in what a test starts.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
