"""Checks of this machine: version, kernels, memory, disk, clock. Nothing here talks to anybody."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from spikemesh import __version__
from spikemesh.cli.doctor.finding import Finding, note, ok, wrong
from spikemesh.cli.folder import RunFolder
from spikemesh.cli.readable import bytes_text
from spikemesh.crdt import Genesis
from spikemesh.errors import BlobMissing, SpikemeshError, StoreBusy, StoreCorrupt, StoreError, StoreFull, TicketError
from spikemesh.files import write_file_atomic

BASE_MEMORY_BYTES, MEMORY_PER_COORDINATE = 500_000_000, 64
"""What a volunteer that trains takes: Python with torch, and per coordinate weights, gradients, moments and the sum."""

BASE_DISK_BYTES, DISK_PER_COORDINATE = 64 << 20, 64
"""What a node's folder takes: start, sum, two states of the trainee, the model, and some room for deltas."""

SLOW_SYNC_S = 0.1
SLOW_DISK_BYTES_PER_S = 5e6
SAMPLE_BYTES, NUM_SYNCS = 8 << 20, 5
CLOCK_SLACK_S = 60.0


def version(torch_version: str | None = None) -> Finding:
    """Whether this installation is whole."""
    try:
        torch = torch_version or importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return wrong(
            "version",
            SpikemeshError(f"spikemesh {__version__} is installed without torch, so it cannot train"),
            "Install torch, or take part with --no-train, which keeps and passes on.",
        )
    return ok("version", f"spikemesh {__version__}, Python {platform.python_version()}, torch {torch}")


def kernels(instruction_set: str) -> Finding:
    if instruction_set == "numpy":
        return note(
            "kernels",
            "not compiled, so NumPy does their work, slowly",
            "Install a C++ compiler (g++ or clang) and install spikemesh again.",
        )
    return ok("kernels", f"compiled, for {instruction_set}")


def memory(available_bytes: int, num_coordinates: int | None) -> Finding:
    needed = BASE_MEMORY_BYTES + MEMORY_PER_COORDINATE * (num_coordinates or 0)
    seen = f"{bytes_text(available_bytes)} available; training this takes about {bytes_text(needed)}"
    if available_bytes < needed:
        return wrong("memory", SpikemeshError(seen), "Close other programs, or take part with --no-train.")
    return ok("memory", seen)


def available_memory_bytes(system: Path = Path("/")) -> int:
    """What programs may still take: the machine's, or this container's if that is less."""
    rooms = []
    try:
        lines = (system / "proc/meminfo").read_text().splitlines()
        rooms += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        rooms.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        group = system / "sys/fs/cgroup"
        rooms.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        pass
    return min(rooms)


def disk(folder: Path, num_coordinates: int | None) -> Iterator[Finding]:
    """Space and speed where the folder is, or will be."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    needed = BASE_DISK_BYTES + DISK_PER_COORDINATE * (num_coordinates or 0)
    free = shutil.disk_usage(place).free
    space = f"{bytes_text(free)} free at {place}; this takes about {bytes_text(needed)}"
    if free < needed:
        yield wrong("disk space", StoreFull(space), "Free some space, or choose another --folder.")
    else:
        yield ok("disk space", space)
    try:
        sync_s, bytes_per_s = _speed(place, min(SAMPLE_BYTES, free // 4))
    except StoreError as error:
        yield wrong("disk", error)
        return
    speed = f"{sync_s * 1000:.1f} ms for a durable write, {bytes_text(bytes_per_s)}/s"
    if sync_s > SLOW_SYNC_S or bytes_per_s < SLOW_DISK_BYTES_PER_S:
        yield note("disk", f"slow: {speed}", "Each round waits for several durable writes. Prefer a local disk.")
    else:
        yield ok("disk", f"writable, {speed}")


def _speed(place: Path, sample_bytes: int) -> tuple[float, float]:
    """(seconds for a small durable write, bytes per second of a large one)."""
    path = place / f".spikemesh-doctor-{secrets.token_hex(4)}"
    try:
        start_s = time.monotonic()
        for number in range(NUM_SYNCS):
            write_file_atomic(path, bytes([number]) * 4096)
        sync_s = (time.monotonic() - start_s) / NUM_SYNCS
        start_s = time.monotonic()
        write_file_atomic(path, bytes(sample_bytes))
        return sync_s, sample_bytes / (time.monotonic() - start_s)
    finally:
        with contextlib.suppress(OSError):  # a disk that takes no writes was reported by them
            path.unlink(missing_ok=True)


def store(run: RunFolder, genesis: Genesis | None) -> Finding:
    """Whether the node's folder can be opened: its format is ours, its index undamaged, the run's start there."""
    from spikemesh.store import Store

    try:
        with Store.open(run.path, create=False) as opened:
            num_records = sum(1 for _ in opened.records())
            if genesis is not None:
                opened.blobs.get(genesis.init_hash)
        return ok("folder", f"{run.path} is whole, with {num_records} records")
    except BlobMissing:
        lacks = StoreCorrupt(f"{run.path} lacks the weights that the run started with.")
        return wrong("folder", lacks, "Join again with a ticket: they come back.")
    except StoreBusy:
        return ok("folder", f"{run.path} is in use by a running node; its records were not looked at")
    except StoreError as error:
        return wrong("folder", error)


def genesis(run: RunFolder) -> Genesis | Finding:
    """The run that the folder belongs to, or why this version cannot take part in it."""
    try:
        return run.genesis()
    except (TicketError, StoreError) as error:
        return wrong("run", error)


def clock(folder: Path, now_s: float, jumped_s: float) -> Finding:
    """Whether this machine's time of day can be right. No record carries a time, so it is never in the way."""
    harmless = "Set the clock. The run does not depend on it: no record carries a time. Logs and file dates do."
    if abs(jumped_s) > 1.0:
        return note("clock", f"it jumped by {jumped_s:+.0f} s while this looked", harmless)
    files = [Path(__file__), *(path for path in folder.glob("*") if path.is_file())]
    ahead_s = max(path.stat().st_mtime for path in files) - now_s
    if ahead_s > CLOCK_SLACK_S:
        return note("clock", f"it stands {ahead_s:.0f} s before files that are here already", harmless)
    return ok("clock", time.strftime("%Y-%m-%d %H:%M UTC, after every file that is here", time.gmtime(now_s)))
