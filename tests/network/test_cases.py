"""One thing a network does at a time, with cheap volunteers: real processes, sockets and stores, no torch."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from spikemesh.cli.demo.swarm import Swarm
from spikemesh.cli.folder import RunFolder
from spikemesh.codec import decode_ticket, encode_ticket
from spikemesh.node import Identity, address_of
from spikemesh.transport import PeerAddress
from tests.hang import HANG_S
from tests.network.lab import PUBLIC_PORT, Host, Lab
from tests.volunteers.crew import ROOT, Crewman, start_all, until, until_equal
from tests.volunteers.join import found_cheap_run

HEAL_PERIODS = 3
"""Of gossip, until all are equal after a change of the network."""


def crew_on(place: Path, hosts: Sequence[Host], *, first: Sequence[str] = ()) -> list[Crewman]:
    """A volunteer on each host; `first` is what only the first is told."""
    found_cheap_run(place / "volunteer-1")
    return [
        Crewman(
            place / f"volunteer-{number}",
            ["--seed", str(number), "--bind", f"0.0.0.0:{PUBLIC_PORT + number}", *(first if number == 1 else ())],
            prefix=host.prefix,
        )
        for number, host in enumerate(hosts, 1)
    ]


def start(crew: Sequence[Crewman]) -> str:
    """Everybody, by the ticket of the first, which is returned; then all know of each other."""
    ticket = start_all(crew)
    more_rounds(crew)
    met = len(crew) - 1
    until(lambda: all(len(m.folder.peers()) == met for m in crew), crew)
    return ticket


def more_rounds(crew: Sequence[Crewman], count: int = 3) -> None:
    def published() -> list[int]:
        return [seen.num_own if (seen := member.statistics()) else 0 for member in crew]

    before = published()
    for member in crew:
        member.let_go()
    until(lambda: all(now >= then + count for now, then in zip(published(), before, strict=True)), crew)
    for member in crew:
        member.hold()
    until(lambda: all(member.is_held for member in crew), crew)


def equal(crew: Sequence[Crewman], num_periods: int | None = HEAL_PERIODS) -> float:
    return until_equal(crew, num_periods)


def test_a_link_that_works_one_way_is_gone_round(lab: Lab, tmp_path: Path) -> None:
    """Two of three public hosts: what one sends to the other never arrives. The third has both."""
    hosts = [lab.host("one"), lab.host("two"), lab.host("three")]
    crew = crew_on(tmp_path, hosts)
    with Swarm(list(crew)):
        start(crew)
        equal(crew)
        lab.weather(cut=[(hosts[1], hosts[2])])
        more_rounds(crew, 20)
        equal(crew)


def test_the_only_reachable_peer_comes_back_at_another_address(lab: Lab, tmp_path: Path) -> None:
    """Volunteers that others can dial are found by the one that moved."""
    hosts = [lab.host("mover"), lab.host("public"), lab.host("home", nat=True)]
    crew = crew_on(tmp_path, hosts)
    with Swarm(list(crew)):
        start(crew)
        equal(crew)
        lab.change_address(hosts[0])
        more_rounds(crew, 20)
        equal(crew)


def test_two_at_home_take_part_through_each_other_and_one_peer_outside(lab: Lab, tmp_path: Path) -> None:
    """Their NAT lets nobody in. The outside peer dies and comes back, and they find it again, not the other way."""
    outside, home = lab.host("outside"), lab.host("home", nat=True)
    crew = crew_on(tmp_path, [outside, home, home])
    with Swarm(list(crew)):
        start(crew)
        equal(crew)
        crew[0].kill()
        more_rounds(crew[1:], 5)
        crew[0].start(str(crew[0].folder.path))
        crew[0].wait_for_ticket()
        more_rounds(crew)
        equal(crew)


# --- joins: every wait has an end and a sentence


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as held:
        yield held


def listening(stack: ExitStack, *command: str) -> str:
    """The first line that a peer process prints; it ends with the test."""
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    stack.callback(process.communicate)
    stack.callback(process.kill)
    assert process.stdout is not None
    return process.stdout.readline().strip()


def mute_socket(stack: ExitStack, run: RunFolder) -> str:
    """A UDP port that takes every packet and sends none."""
    port = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    port.bind(("127.0.0.1", 0))
    peer = PeerAddress(id=Identity(b"mute".ljust(32, b".")).id, addresses=(f"127.0.0.1:{port.getsockname()[1]}",))
    return encode_ticket(run.run_id(), peer)


def silent_node(stack: ExitStack, run: RunFolder) -> str:
    """A node that takes connections and requests, and answers none."""
    return listening(stack, "-m", "tests.network.silent_peer", "127.0.0.1:0", run.run_id().hex())


def nobody(stack: ExitStack, run: RunFolder) -> str:
    peer = PeerAddress(id=Identity(b"gone".ljust(32, b".")).id, addresses=("127.0.0.1:9",))
    return encode_ticket(run.run_id(), peer)


CONTACTS = [mute_socket, silent_node, nobody]


def test_newcomers_whose_contact_does_not_answer_are_told_so(stack: ExitStack, tmp_path: Path) -> None:
    run = found_cheap_run(tmp_path / "founder")
    command = [sys.executable, "-m", "tests.volunteers.join", "--cheap", "0.05", "join"]
    newcomers = {}
    for contact in CONTACTS:
        options = [contact(stack, run), "--bind", "127.0.0.1:0", "--folder", str(tmp_path / contact.__name__)]
        newcomers[contact] = subprocess.Popen([*command, *options], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        stack.callback(newcomers[contact].kill)
    for contact, process in newcomers.items():
        said = process.communicate(timeout=HANG_S)[1].strip()
        assert process.returncode == 4, contact
        assert said.startswith("spikemesh: peer ") and len(said.splitlines()) == 1
        assert "did not" in said or "cannot be connected to" in said


def test_nodes_whose_peers_do_not_answer_go_on_alone(stack: ExitStack, tmp_path: Path) -> None:
    """They train all the same, and whoever comes to them is welcome."""
    crew = []
    for number, contact in enumerate(CONTACTS, 1):
        run = found_cheap_run(tmp_path / contact.__name__)
        run.set_peers((address_of(decode_ticket(contact(stack, run))[1]),))
        crew.append(Crewman(run.path, ["--seed", str(number), "--bind", "127.0.0.1:0"]))
    late = Crewman(tmp_path / "late", ["--seed", "9", "--bind", "127.0.0.1:0"])
    with Swarm([*crew, late]):
        for member in crew:
            member.start(str(member.folder.path))
        until(lambda: all((seen := m.statistics()) and seen.num_own > 3 for m in crew), crew)
        for member in crew[1:]:
            member.hold()
        late.start(crew[0].wait_for_ticket())
        late.wait_for_ticket()
        more_rounds([crew[0], late])
        equal([crew[0], late])
