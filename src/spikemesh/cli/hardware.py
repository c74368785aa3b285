"""What a result was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import msgspec


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """What the run ran on. `memory_bytes` is the machine's, `python` and `torch` are versions."""

    cpu: str
    cores: int
    memory_bytes: int
    python: str
    torch: str


def hardware() -> Hardware:
    """This machine and the versions that numbers depend on."""
    return Hardware(
        cpu=_cpu_name(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        python=platform.python_version(),
        torch=importlib.metadata.version("torch"),
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
