"""`spikemesh join --relay`: which URLs are taken, and what a node's folder remembers of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from spikemesh.cli.demo.swarm import Swarm
from spikemesh.codec import decode_ticket
from tests.volunteers.crew import Crewman
from tests.volunteers.join import found_cheap_run

NOBODY, OTHER = "http://127.0.0.1:9/", "https://relay.invalid/"
"""Relays that do not answer: a node goes on trying, and does without."""


@pytest.mark.parametrize(
    "text",
    [
        "relay.example.org",
        "relay.example.org:443",
        "ftp://relay.example.org",
        "http://",
        "http://:80",
        "http://relay.example.org:0",
        "http://relay.example.org:99999",
        "http://somebody:secret@relay.example.org",
        "https://relay.example.org/path",
        "https://relay.example.org/?token=secret",
        "https://relay.example.org#x",
        "http://a b",
        "http://[::1",
        "http://" + "x" * 300,
    ],
)
def test_what_is_no_relay_is_explained(run: Callable[..., tuple[int, str, str]], text: str, tmp_path: Path) -> None:
    code, _, said = run("join", tmp_path, "--relay", text)
    assert code == 2 and "--relay" in said and "http(s)://host:port" in said
    assert not [*tmp_path.iterdir()]


def relay_in(ticket: str) -> str | None:
    return decode_ticket(ticket)[1].relay_url


def test_the_last_relay_that_was_said_is_remembered(tmp_path: Path) -> None:
    """By `--relay` or by a ticket, which the option overrules; without either, the same one again."""
    here = ["--bind", "127.0.0.1:0"]
    first = Crewman(tmp_path / "first", [*here, "--relay", NOBODY])
    found_cheap_run(first.folder.path)
    follower, other = Crewman(tmp_path / "follower", here), Crewman(tmp_path / "other", [*here, "--relay", OTHER])
    with Swarm([first, follower, other]):
        first.start(str(first.folder.path))
        ticket = first.wait_for_ticket()
        for member in (follower, other):
            member.start(ticket)
        assert [relay_in(member.wait_for_ticket()) for member in (first, follower, other)] == [NOBODY, NOBODY, OTHER]
        follower.kill()
        follower.start(str(follower.folder.path))
        assert relay_in(follower.wait_for_ticket()) == NOBODY
    assert (other.folder.path / "relay").read_text() == OTHER + "\n"
