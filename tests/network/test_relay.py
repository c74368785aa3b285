"""Two volunteers, each behind a NAT of its own, and a public host on which nothing runs but a relay."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spikemesh.cli.demo.swarm import Swarm
from spikemesh.codec import decode_ticket
from tests.network.lab import Host, Lab
from tests.network.test_cases import crew_on, equal, more_rounds, start
from tests.network.test_doctor import look
from tests.volunteers.crew import ROOT, Crewman

PORT = 3340


class RelayProcess:
    """A relay on a host of the lab."""

    def __init__(self, host: Host) -> None:
        self._command = [*host.prefix, sys.executable, "-m", "tests.network.relay", f"{host.public}:{PORT}"]

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, "the relay ended before it listened"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def relay(lab: Lab) -> Iterator[RelayProcess]:
    process = RelayProcess(lab.host("relay"))
    process.start()
    yield process
    process.kill()


@pytest.fixture
def crew(lab: Lab, relay: RelayProcess, tmp_path: Path) -> Iterator[list[Crewman]]:
    """Only the first is told of the relay."""
    homes = [lab.host("left", nat=True), lab.host("right", nat=True)]
    crew = crew_on(tmp_path, homes, first=["--relay", relay.url])
    with Swarm(list(crew)):
        yield crew


def test_a_ticket_brings_both_to_the_relay(relay: RelayProcess, crew: list[Crewman]) -> None:
    ticket = start(crew)
    assert decode_ticket(ticket)[1].relay_url == relay.url
    equal(crew)
    crew[1].kill()
    more_rounds(crew[:1])
    crew[1].start(str(crew[1].folder.path))  # the same command goes on: the relay is remembered
    crew[1].wait_for_ticket()
    more_rounds(crew)
    equal(crew)


def test_a_relay_dies_and_comes_back(
    relay: RelayProcess, crew: list[Crewman], capsys: pytest.CaptureFixture[str]
) -> None:
    start(crew)
    equal(crew)
    relay.kill()
    more_rounds(crew, 10)
    assert len({member.statistics().digest for member in crew}) == 2, "there was another way"  # type: ignore[union-attr]
    relay.start()
    took_s = equal(crew, None)  # iroh tries a relay again after pauses that grow
    with capsys.disabled():
        print(f"\n{took_s:.1f} s to equal digests after a relay came back")  # noqa: T201


def test_the_doctor_looks_through_a_relay(lab: Lab, relay: RelayProcess, crew: list[Crewman], tmp_path: Path) -> None:
    """Nothing else reaches a volunteer at another home."""
    visitor = lab.host("visitor", nat=True)
    crew[0].start(str(crew[0].folder.path))
    ticket = crew[0].wait_for_ticket()
    code, found = look(visitor, ticket, tmp_path / "new")
    assert code == 0 and found["relay"]["state"] == found["peers"]["state"] == "ok"
    relay.kill()
    code, found = look(visitor, ticket, tmp_path / "new")
    assert code == 4 and found["relay"]["state"] == "note" and "did not take this node in" in found["relay"]["seen"]
    (peer,) = (finding for name, finding in found.items() if name.startswith("peer "))
    assert "neither at its addresses nor through the relay" in peer["seen"]
