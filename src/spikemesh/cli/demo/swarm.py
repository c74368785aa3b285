"""Volunteers as operating-system processes: start them, watch what they write, kill one, stop them in order."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from spikemesh.cli.folder import RunFolder
from spikemesh.errors import SpikemeshError
from spikemesh.node import NodeStatistics

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.25


class Volunteer:
    """One `spikemesh join` process and its folder. `program` is what stands before `join` in its command."""

    def __init__(
        self, folder: RunFolder, options: list[str], program: Sequence[str] = (sys.executable, "-m", "spikemesh")
    ) -> None:
        self.folder = folder
        self._options = options
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self.folder.path.name

    @property
    def log_path(self) -> Path:
        return self.folder.path.with_suffix(".log")

    def start(self, run: str) -> None:
        """`run` is a ticket or this volunteer's own folder. Its session is its own, so Ctrl-C reaches only the demo.

        Its standard input is a pipe that nobody writes to: when this process ends, however it ends, the pipe closes and
        the volunteer leaves.
        """
        self.folder.ticket_path.unlink(missing_ok=True)
        command = [*self._program, "join", run, "--leave-at-eof", *self._options]
        if run != str(self.folder.path):
            command += ["--folder", str(self.folder.path)]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )

    def wait_for_ticket(self) -> str:
        """The ticket that others can join with, once this node listens."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            self.check()
            if self.folder.ticket_path.exists():
                return self.folder.ticket_path.read_text().strip()
            time.sleep(POLL_S)
        raise SpikemeshError(f"{self.name} did not start within {START_TIMEOUT_S:.0f} s; see {self.log_path}")

    def check(self) -> None:
        """Raise with the last line of its log if it ended without being asked to."""
        if self._process is not None and (code := self._process.poll()) is not None:
            lines = self.log_path.read_text(errors="replace").strip().splitlines() or ["(nothing)"]
            raise SpikemeshError(f"{self.name} ended with code {code}: {lines[-1]} (all of it: {self.log_path})")

    def kill(self) -> None:
        """SIGKILL: no chance to save anything."""
        if self._process is not None:
            self._process.kill()
            self._ended()

    def ask_to_stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)

    def wait_until_stopped(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(STOP_TIMEOUT_S)
            self._ended()
        except subprocess.TimeoutExpired:
            self.kill()

    def _ended(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.wait()
            self._process.stdin.close()
            self._process = None

    def statistics(self) -> NodeStatistics | None:
        return self.folder.statistics()


class Swarm:
    """All volunteers of one demo. Leaving the `with` block stops whoever still runs."""

    def __init__(self, volunteers: list[Volunteer]) -> None:
        self.volunteers = volunteers

    def __iter__(self) -> Iterator[Volunteer]:
        return iter(self.volunteers)

    def __enter__(self) -> Swarm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        for volunteer in self.volunteers:
            volunteer.ask_to_stop()
        for volunteer in self.volunteers:
            volunteer.wait_until_stopped()


def agree(statistics: list[NodeStatistics | None]) -> bool:
    """Everybody is done and holds the same records with the same sum."""
    known = [s for s in statistics if s is not None]
    done = all(s.volunteer is not None and s.volunteer.state == "done" for s in known)
    return len(known) == len(statistics) and done and len({(s.set_digest, s.digest) for s in known}) == 1
