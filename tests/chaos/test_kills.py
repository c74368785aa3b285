"""Volunteers are killed two hundred times while they train: at random moments, at random calls that change the disk,
in the middle of writes; disks fill up and become read-only, clocks jump by years. A life ends at one of its own calls,
or at a moment after one: nothing is timed.

At the end everybody starts once more, and then: nothing that was acknowledged is lost, no contribution counts twice,
all have the same digests. `SEED` chooses every kill and every fault.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

from spikemesh.cli.folder import RunFolder
from spikemesh.codec import decode_delta, run_id
from spikemesh.crdt import Contribution, Delta, Replica
from spikemesh.node import Ledger, NodeStatistics
from spikemesh.sim.run import THETA0
from spikemesh.store import Store
from tests.chaos.nursery import MOMENT, Life, Signal
from tests.hang import HANG_S, until
from tests.machine import faults_library, make_read_only, small_disk
from tests.volunteers.crew import Crewman
from tests.volunteers.join import found_cheap_run

ROOT = Path(__file__).parent.parent.parent
SEED = 5
NUM_VOLUNTEERS = 5

LAST_CALL = 350
"""Faults strike at a call up to this: a start makes a few dozen, a round ten or so."""

FIRST_KILLS = 10
"""Of the others, before the one that all have their ticket from may die."""

EXIT_CODES = {errno.ENOSPC: 5, errno.EROFS: 7}
LONELY = 4
"""Ended because no peer answered: all the others were dead just then."""


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faults_library(tmp_path_factory.mktemp("faults"))


class Nursery:
    """The process that starts volunteers, and what it said of them."""

    def __init__(self, faults: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.nursery"],
            cwd=ROOT,
            env=os.environ | {"LD_PRELOAD": str(faults), "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._unread = b""
        self.running: dict[str, int] = {}
        self.ended: dict[str, int] = {}

    def start(self, life: Life) -> None:
        self.ended.pop(life.name, None)
        self._tell(life)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Nothing happens if it has ended."""
        self._tell(Signal(name, number))

    def _tell(self, what: Life | Signal) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(what) + b"\n")
        self._process.stdin.flush()

    def look(self) -> None:
        """Take in what was said since the last look."""
        assert self._process.stdout is not None and self._process.poll() is None, "the nursery is gone"
        *lines, self._unread = (self._unread + (self._process.stdout.read() or b"")).split(b"\n")
        for name, event, number in map(msgspec.json.decode, lines):
            if event == "started":
                self.running[name] = number
            else:
                del self.running[name]
                self.ended[name] = number

    def is_empty(self) -> bool:
        self.look()
        return not self.running

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture
def nursery(faults: Path) -> Iterator[Nursery]:
    nursery = Nursery(faults)
    try:
        yield nursery
    finally:
        nursery.close()


class Swarm:
    """The five, and how many of their lives ended in which way."""

    def __init__(self, place: Path, nursery: Nursery) -> None:
        self.nursery, self.rng = nursery, random.Random(SEED)
        found_cheap_run(place / "v0")
        self.members = [Crewman(place / f"v{number}") for number in range(NUM_VOLUNTEERS)]
        self.lives: dict[str, Life] = {}
        self.ends: Counter[str] = Counter()
        self.num_started = 0

    def start(self, member: Crewman, *, fated: bool) -> None:
        self.num_started += 1
        place = member.folder
        life = Life(
            name=member.name,
            folder=str(place.path),
            run=str(place.path) if place.has_genesis else self.members[0].folder.ticket_path.read_text().strip(),
            seed=self.num_started,
            **(self._fate() if fated else {"clock_jumps": False}),
        )
        if not fated:
            place.status_path.unlink(missing_ok=True)
        self.lives[member.name] = life
        self.nursery.start(life)

    def _fate(self) -> dict[str, int | bool]:
        kind = self.rng.choices(["moment", "call", "write", "full", "read-only"], [3, 4, 2, 1, 1])[0]
        fault = {"moment": MOMENT, "call": 0, "write": -1, "full": errno.ENOSPC, "read-only": errno.EROFS}
        return {"at": self.rng.randint(1, LAST_CALL), "fault": fault[kind], "keeps_failing": fault[kind] > 0}

    @property
    def num_killed(self) -> int:
        return self.ends["killed at a moment"] + self.ends["killed at a call"]

    def torment(self, members: list[Crewman], num_kills: int) -> None:
        """Who ends is started again, until so many have been killed in all."""
        for number in range(self.num_killed + 1, num_kills + 1):
            until(lambda number=number: self._have_killed(members, number), self.told)  # type: ignore[misc]

    def _have_killed(self, members: list[Crewman], number: int) -> bool:
        self.nursery.look()
        for member in members:
            if member.name in self.nursery.ended:
                self._judge(member, self.nursery.ended[member.name])
                self.start(member, fated=True)
        return self.num_killed >= number

    def _judge(self, member: Crewman, status: int) -> None:
        """A life may end by the kill that was meant for it, or with the exit code and sentence of its fault."""
        life = self.lives[member.name]
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL, f"{member.name}: signal {os.WTERMSIG(status)}"
            self.ends["killed at a call" if life.at and life.fault != MOMENT else "killed at a moment"] += 1
            return
        code = os.waitstatus_to_exitcode(status)
        last = member.log_path.read_text().strip().splitlines()[-1]
        expected = {EXIT_CODES.get(life.fault, LONELY), LONELY}
        assert code in expected, f"{member.name} {life}: code {code}, {last}"
        assert last.startswith("spikemesh: "), last
        self.ends[{5: "disk full", 7: "disk read-only", LONELY: "lonely"}[code]] += 1

    def wait_until(self, condition: Callable[[], bool]) -> float:
        """While nobody ends."""

        def look() -> None:
            self.nursery.look()
            assert not self.nursery.ended, [m.log_path.read_text()[-2000:] for m in self.members]

        return until(condition, self.told, look)

    def told(self) -> object:
        return self.ends, [member.statistics() for member in self.members]


@pytest.mark.parametrize("num_kills", [20, pytest.param(200, marks=pytest.mark.long)])
def test_however_often_they_are_killed_nothing_is_lost_or_counted_twice(
    nursery: Nursery, tmp_path: Path, capsys: pytest.CaptureFixture[str], num_kills: int
) -> None:
    start_s = time.monotonic()
    swarm = Swarm(tmp_path, nursery)
    first, *others = swarm.members
    swarm.start(first, fated=False)
    swarm.wait_until(first.folder.ticket_path.exists)
    for member in others:
        swarm.start(member, fated=True)
    swarm.torment(others, FIRST_KILLS)
    nursery.signal(first.name, signal.SIGKILL)
    swarm.torment(swarm.members, num_kills)
    took_s = swarm_end(swarm)
    replica = audit(swarm.members)
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{swarm.num_started} lives of {NUM_VOLUNTEERS} volunteers: {dict(swarm.ends)}; "
            f"{sum(len(m.acknowledged()) for m in swarm.members)} acknowledged, {len(replica.records.visible)} held, "
            f"equal {took_s:.1f} s after the last start; {time.monotonic() - start_s:.0f} s in all"
        )
    assert swarm.ends["killed at a call"] > num_kills / 4 < swarm.ends["killed at a moment"]
    assert swarm.ends["disk full"] and swarm.ends["disk read-only"]
    assert len(replica.records.visible) > num_kills


def swarm_end(swarm: Swarm) -> float:
    """Everybody dies once more and starts without faults; seconds until all are equal. Then all leave in order."""
    nursery = swarm.nursery
    for member in swarm.members:
        nursery.signal(member.name, signal.SIGKILL)
    until(nursery.is_empty, swarm.told)
    for member in swarm.members:
        member.hold()
        swarm.start(member, fated=False)
    took_s = swarm.wait_until(lambda: all_same([m.statistics() for m in swarm.members]))
    for member in swarm.members:
        member.let_go()
        nursery.signal(member.name, signal.SIGINT)
    until(nursery.is_empty, swarm.told)
    assert set(nursery.ended.values()) == {0}, nursery.ended
    return took_s


def all_same(seen: list[NodeStatistics | None]) -> bool:
    """All are there and hold the same. Numbers may have been skipped, so they do not say how many there are."""
    return None not in seen and len({(s.set_digest, s.digest) for s in seen if s}) == 1


def audit(members: list[Crewman]) -> Replica:
    """Open every folder again, and compute the sum from its records and everybody's deltas, each once."""
    replicas, blobs = [], {}
    for member in members:
        with Store.open(member.folder.path, create=False) as store:
            genesis = member.folder.genesis()
            replicas.append(Ledger.open(store, genesis, run_id(genesis), THETA0).replica)
            blobs.update({digest: store.blobs.get(digest) for digest in store.blobs.hashes()})
    first = replicas[0]
    assert len({(r.records.digest, r.sum.digest) for r in replicas}) == 1
    assert not first.records.equivocations
    for member in members:
        lost = set(member.acknowledged()) - set(first.records.visible)
        assert not lost, f"{member.name}: {len(lost)} of {len(member.acknowledged())} acknowledged ones are lost"

    def delta(contribution: Contribution) -> Delta:
        blob = blobs[contribution.delta_hash]
        assert blake3(blob).digest() == contribution.delta_hash
        return decode_delta(blob, num_coordinates=len(THETA0)).to_delta()

    again = Replica.empty(len(THETA0), first.records.retractors).insert(first.records, delta)
    assert again.sum.digest == first.sum.digest
    numbers = Counter((c.author, c.seq) for c in first.records.visible.values())
    assert set(numbers.values()) == {1}
    return first


def test_the_clock_of_a_preloaded_process_jumps(faults: Path) -> None:
    code = (
        "import ctypes, time; wall, steady = time.time(), time.monotonic();"
        "ctypes.CDLL(None).faults_jump(ctypes.c_long(-86400));"
        "print(round(time.time() - wall), round(time.monotonic() - steady))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"LD_PRELOAD": str(faults)}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["-86400", "0"]


def test_a_read_only_disk_ends_a_join_with_a_sentence(tmp_path: Path) -> None:
    with small_disk(tmp_path, "8m"):
        folder = RunFolder(found_cheap_run(tmp_path / "node").path)
        make_read_only(tmp_path)
        command = [sys.executable, "-m", "spikemesh", "join", str(folder.path), "--bind", "127.0.0.1:0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
        assert done.returncode == 7
        assert "Make the folder writable" in done.stderr and len(done.stderr.strip().splitlines()) == 1
