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
from tests.volunteers.crew import ROOT, Crewman

PORT = 3340

FOUND_S = 30.0
"""Longest time to equal digests after a relay came back; iroh tries it again after pauses that grow."""


class RelayProcess:
    """A relay on a host of the lab. It can be killed and started again."""

    def __init__(self, host: Host) -> None:
        self._command = [*host.prefix, sys.executable, "-m", "tests.network.relay", f"{host.public}:{PORT}"]

    def __enter__(self) -> RelayProcess:
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, "the relay ended before it listened"
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def relay(lab: Lab) -> Iterator[RelayProcess]:
    with RelayProcess(lab.host("relay")) as process:
        yield process


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
    relay.__exit__()
    more_rounds(crew, 10)
    assert len({member.statistics().digest for member in crew}) == 2, "there was another way"  # type: ignore[union-attr]
    relay.__enter__()
    took_s = equal(crew, FOUND_S)
    with capsys.disabled():
        print(f"\n{took_s:.1f} s to equal digests after a relay came back")  # noqa: T201
