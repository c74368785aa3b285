"""The lab is what the other tests take it for: what it loses, delays, cuts and hides is measured with real packets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.hang import HANG_S
from tests.network.lab import Host, Lab, both_ways, run

PROBE = str(Path(__file__).with_name("probe.py"))
PORT = "4400"


def listen(host: Host) -> subprocess.Popen[str]:
    process = subprocess.Popen([*host.prefix, sys.executable, PROBE, "answer", PORT], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def ask(host: Host, address: str, count: int = 5) -> tuple[int, float, list[str]]:
    """(answers, fastest round trip in seconds, addresses that the asked host saw)."""
    answers, fastest, *seen = run(*host.prefix, sys.executable, PROBE, "ask", address, PORT, str(count)).split()
    return int(answers), float(fastest), seen


def test_the_weather_is_what_it_says(lab: Lab) -> None:
    middle, left, right = lab.host("middle"), lab.host("left", nat=True), lab.host("right")
    for host in (middle, left, right):
        listen(host)
    assert ask(left, middle.public)[0] == ask(right, middle.public)[0] == 5
    lab.weather(loss=0.3)
    assert 0.35 < ask(left, middle.public, 1000)[0] / 1000 < 0.63  # .7 each way is .49
    lab.weather(delay_s=0.2)
    answers, fastest_s, _ = ask(left, middle.public)
    num_delayed = lab.num_delayed()
    assert answers == 5 and fastest_s >= 0.4 and num_delayed >= 10
    lab.weather(cut=both_ways([left], [middle]))
    assert ask(left, middle.public)[0] == 0 and ask(right, middle.public)[0] == 5
    lab.weather(cut=[(right, middle)])
    assert ask(right, middle.public)[0] == ask(middle, right.public)[0] == 0  # one way of the two is enough
    lab.weather()
    assert ask(left, middle.public)[0] == 5 and lab.num_delayed() < num_delayed + 5


def test_nat_lets_out_and_lets_nobody_in(lab: Lab) -> None:
    middle, left, right = lab.host("middle"), lab.host("left", nat=True), lab.host("right", nat=True)
    for host in (middle, left, right):
        listen(host)
    assert left.local == right.local
    assert ask(left, middle.public)[2] == [left.public]
    assert [ask(middle, left.public)[0], ask(middle, left.local)[0], ask(right, left.public)[0]] == [0, 0, 0]
    assert ask(right, left.local)[2] == [right.local]  # the same address, at home
    before = left.public
    lab.change_address(left)
    assert left.public != before
    assert ask(left, middle.public)[2] == [left.public]


def test_nothing_of_a_lab_is_left_behind(lab_works: None) -> None:
    with Lab() as lab:
        process = listen(lab.host("middle"))
        assert len(lab.namespaces()) == 2
    assert process.wait(HANG_S) == -9
    assert lab.namespaces() == []
