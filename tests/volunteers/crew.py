"""Volunteers as processes that a test starts where it likes, holds at the gate, and looks at."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from spikemesh.cli.demo.swarm import Volunteer
from spikemesh.cli.folder import RunFolder
from spikemesh.node import NodeStatistics
from tests import hang
from tests.volunteers.join import ACKNOWLEDGED, GATE, PERIODS, WAITING

ROOT = Path(__file__).parent.parent.parent


class Crewman(Volunteer):
    """One watched `spikemesh join` process.

    With `step_s` it is a cheap one that takes so long for a step, without it really trains. `prefix` is put before its
    command, as `ip netns exec NAME`.
    """

    def __init__(
        self,
        folder: Path,
        options: Sequence[str] = (),
        *,
        step_s: float | None = 0.05,
        prefix: Sequence[str] = (),
    ) -> None:
        program = [*prefix, "env", "-C", str(ROOT), sys.executable, "-m", "tests.volunteers.join"]
        super().__init__(
            RunFolder(folder), list(options), [*program, *(["--cheap", str(step_s)] if step_s is not None else [])]
        )

    def start(self, run: str, *, forgets: bool = True) -> None:
        """Unless it `forgets`, its last status stays until it writes one, and it counts this start with the others."""
        self.folder.path.mkdir(exist_ok=True)
        if forgets:
            self.folder.status_path.unlink(missing_ok=True)
        self._path(WAITING).unlink(missing_ok=True)
        super().start(run)

    def hold(self, after: int = 0) -> None:
        """Wait before the next round, once so many were made since the start; `is_held` says when that is reached."""
        self.folder.path.mkdir(exist_ok=True)
        self._path(GATE).write_text(str(after))

    def let_go(self) -> None:
        self._path(GATE).unlink(missing_ok=True)
        self._path(WAITING).unlink(missing_ok=True)

    def ask_to_stop(self) -> None:
        self.let_go()
        super().ask_to_stop()

    @property
    def is_held(self) -> bool:
        return self._path(WAITING).exists()

    def acknowledged(self) -> list[bytes]:
        """The ids of the contributions that this volunteer was told are published."""
        path = self._path(ACKNOWLEDGED)
        data = path.read_bytes() if path.exists() else b""
        return [data[start : start + 32] for start in range(0, len(data), 32)]

    @property
    def num_periods(self) -> int:
        """Gossip periods so far: its own measure of time, whatever else the machine has to do."""
        path = self._path(PERIODS)
        return path.stat().st_size if path.exists() else 0

    def _path(self, name: str) -> Path:
        return self.folder.path / name


def start_all(crew: Sequence[Crewman]) -> str:
    """Everybody, by the ticket of the first, which is returned."""
    first, *others = crew
    first.start(str(first.folder.path))
    ticket = first.wait_for_ticket()
    for member in others:
        member.start(ticket)
    for member in others:
        member.wait_for_ticket()
    return ticket


def until(condition: Callable[[], bool], crew: Sequence[Volunteer]) -> float:
    """Seconds until `condition` holds. Fails with what everybody last said if it hangs or one of them ends."""

    def look() -> None:
        for member in crew:
            member.check()

    return hang.until(condition, lambda: [(member.name, member.statistics()) for member in crew], look)


def until_equal(crew: Sequence[Crewman], num_periods: int | None = None) -> float:
    """Seconds until all are equal. That must be so before everybody has begun another gossip period after so many."""
    before = [member.num_periods for member in crew]
    took_s = until(lambda: all_equal([member.statistics() for member in crew]), crew)
    begun = [member.num_periods - then for member, then in zip(crew, before, strict=True)]
    assert num_periods is None or min(begun) <= num_periods, f"equal after {begun} gossip periods, {took_s:.1f} s"
    return took_s


def all_equal(seen: Sequence[NodeStatistics | None]) -> bool:
    """Everybody holds the same records and the same sum, and these are all that anybody has published."""
    known = [s for s in seen if s is not None]
    return (
        len(known) == len(seen)
        and len({(s.set_digest, s.digest) for s in known}) == 1
        and known[0].num_contributions == sum(s.num_own for s in known)
    )
