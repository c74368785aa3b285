"""What a command costs as a whole process, with all its children: wall time, CPU time and private memory.

Private memory is anonymous and shared-memory pages, read from /proc every 20 ms. A mapped file is not counted: the
kernel can drop its pages at any time.

A virtual machine may hand memory that was free for a few seconds back to its host, and touching it again is then many
times slower than any merge. `settle` therefore touches free memory right before each timed command.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

SAMPLE_EVERY_S = 0.02
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


@dataclass(frozen=True, kw_only=True)
class Run:
    """The cost of one command. `error` is None if it exited with 0, and otherwise why not; `said` is its output."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    error: str | None = None
    said: str = ""


def measure(
    command: Sequence[str | Path],
    *,
    limit_s: float = 600,
    limit_bytes: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Run:
    """Run `command` to its end or until it exceeds a limit; by default 1 GiB of available memory is not for it."""
    limit_bytes = limit_bytes or _memory_bytes("MemAvailable") - (1 << 30)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start_s = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=None if environment is None else {**os.environ, **environment},
            start_new_session=True,
        )
        try:
            peak_bytes, stopped = _watch(process.pid, start_s + limit_s, limit_bytes)
        finally:
            _kill_group(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start_s
        process.returncode = os.waitstatus_to_exitcode(status)
        error = None
        if stopped is not None or process.returncode != 0:
            error = stopped or f"exit code {process.returncode}: {_last_line(errors)}"
        output.seek(0)
        said = output.read().decode(errors="replace")
    return Run(wall_s=wall_s, cpu_s=usage.ru_utime + usage.ru_stime, peak_bytes=peak_bytes, error=error, said=said)


def median(runs: Sequence[Run]) -> Run:
    """Each cost's median, over the runs that did not fail; the first failure if all failed."""
    good = [run for run in runs if run.error is None]
    if not good:
        return runs[0]
    return Run(
        wall_s=statistics.median(run.wall_s for run in good),
        cpu_s=statistics.median(run.cpu_s for run in good),
        peak_bytes=int(statistics.median(run.peak_bytes for run in good)),
    )


def alternate(
    work: Mapping[str, Callable[[], Run]],
    rounds: int,
    prepare: Callable[[], None],
    *,
    may_fail: Collection[str] = (),
) -> dict[str, list[Run]]:
    """Do each piece of work `rounds` times, in turn, with `prepare` before each.

    One that fails is not tried again if it is named in `may_fail`; else RuntimeError.
    """
    runs: dict[str, list[Run]] = {name: [] for name in work}
    for turn in range(rounds):
        for name, do in work.items():
            if any(run.error for run in runs[name]):
                continue
            prepare()
            run = do()
            runs[name].append(run)
            outcome = run.error or f"{run.wall_s:.2f} s, {run.cpu_s:.2f} CPU-s, {run.peak_bytes / 1e6:.0f} MB"
            tell(f"{name}, {turn + 1} of {rounds}: {outcome}")
            if run.error and name not in may_fail:
                raise RuntimeError(f"{name}: {run.error}")
    return runs


def settle(num_bytes: int) -> None:
    """Wait for pending writes, then touch `num_bytes` of free memory (what there is, if that is less)."""
    os.sync()
    num_bytes = min(num_bytes, _memory_bytes("MemFree") - (1 << 29))
    if num_bytes > 0:
        touch = "import sys; bytes([1]) * int(sys.argv[1])"
        subprocess.run([sys.executable, "-c", touch, str(num_bytes)], check=False)


def drop_caches() -> bool:
    """Forget the content of all files, where we may; whether we may."""
    os.sync()
    try:
        DROP_CACHES.write_text("3\n")
    except OSError:
        return False
    return True


def read_through(*paths: Path) -> None:
    """Bring files into the page cache."""
    buffer = bytearray(1 << 22)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def told(run: Run) -> dict[str, Any]:
    """The JSON object on the last line of what the command printed."""
    if run.error is not None:
        raise RuntimeError(run.error)
    return json.loads(run.said.strip().splitlines()[-1])


def tell(text: str) -> None:
    """Progress, for the person who waits."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _watch(pid: int, until_s: float, limit_bytes: int) -> tuple[int, str | None]:
    """Wait for the process to end: the peak of its tree's private memory, and why it must be stopped, if it must."""
    peak_bytes = 0
    handle = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        while not poll.poll(SAMPLE_EVERY_S * 1000):
            peak_bytes = max(peak_bytes, _private_bytes(pid))
            if peak_bytes > limit_bytes:
                return peak_bytes, f"stopped: more than {limit_bytes / 1e9:.1f} GB of private memory"
            if time.perf_counter() > until_s:
                return peak_bytes, "stopped: the time limit"
    finally:
        os.close(handle)
    return peak_bytes, None


def _private_bytes(pid: int) -> int:
    """Private memory of a process and all that descend from it. 0 for one that has just ended."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(_private_bytes(int(child)) for child in (task / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return total


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _memory_bytes(field: str) -> int:
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").replace("\r", "\n").strip().splitlines()
    return lines[-1][:300] if lines else "no message"
