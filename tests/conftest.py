"""One hypothesis profile for every room: the same examples on every run, and a failure prints how to repeat it."""

from __future__ import annotations

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
