"""How long until eight peers hold the same 100 MB of weights, with one of them killed in each round: we and hivemind.

A round: every peer changes its weights, as training would, and then all are made equal. hivemind averages the weights
themselves (all-reduce in a group that its peers find by a DHT), as its own benchmark does. We send each peer's change,
its largest quarter in 4 bits, and fold all of them. Half-way through a round, as long as an undisturbed one took, one
peer gets SIGKILL; a new one takes its place, untimed, before the next round begins. A round is over when all that are
alive hold the same: we to the bit, hivemind to a thousandth of the change; a try that leaves them unequal is a lost
one, and is tried again. Bytes are those of the loopback interface, so give it a machine on which nothing else talks.

    python benchmarks/all_equal.py --commit
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from environments import ROOT, environment
from equal.process import OUR_PEER, Peer, found_run
from harness import Report

PACKAGES = ("hivemind==1.1.12",)
NUM_PEERS = 8
CHANGE = 1e-3
TOLERANCE = 1e-3
"""Of the change, up to which hivemind's weights count as equal: each peer adds a difference that was rounded."""
GROUP_TIMEOUT_S = 30.0
MAX_TRIES = 5
LIMIT_S = 120.0
"""After this a round is given up, and everybody is started anew."""
LOOK_S = 0.05


class Swarm:
    """Peers of one kind, those that are alive."""

    def __init__(self, place: Path, num_values: int) -> None:
        self.place, self.num_values = place, num_values
        self.peers: list[Peer] = []
        self._num_started = 0

    def fill(self) -> None:
        """Start peers until there are enough."""
        while len(self.peers) < NUM_PEERS:
            self.peers.append(Peer(self.command(self._num_started)))
            self._num_started += 1

    def ask(self, **question: object) -> list[dict[str, Any]]:
        """The answers of all; who dies meanwhile is counted out."""
        asked = [peer for peer in self.peers if _try(lambda peer=peer: peer.tell(**question)) is not None]
        answers = [(peer, _try(peer.hear)) for peer in asked]
        self.peers = [peer for peer, answer in answers if answer is not None]
        return [answer for _, answer in answers if answer is not None]

    def end(self) -> None:
        for peer in self.peers:
            peer.kill()

    def command(self, number: int) -> Sequence[str | Path]:
        raise NotImplementedError

    def equalise(self, number: int) -> int:
        """Change all weights and make them equal; how many tries were lost. `TimeoutError` if that does not come."""
        raise NotImplementedError


def _try(work: Any) -> Any:
    try:
        result = work()
        return True if result is None else result
    except EOFError:
        return None


class Ours(Swarm):
    def command(self, number: int) -> Sequence[str | Path]:
        folder = self.place / f"peer-{number}"
        if not self.peers:
            found_run(folder, self.num_values)
        return (
            sys.executable,
            OUR_PEER,
            folder,
            str(number),
            *(p.hello["ticket"] for p in self.peers[:1]),
        )

    def equalise(self, number: int) -> int:
        before = {peer.hello["id"]: view["rounds"].get(peer.hello["id"], 0) for peer, view in self._views()}
        self.ask(do="publish", number=number)
        while True:
            views = self._views()
            wanted = {peer.hello["id"]: before[peer.hello["id"]] + 1 for peer, _ in views}
            if not views:
                raise TimeoutError
            if len({view["digest"] for _, view in views}) == 1 and all(
                view["rounds"].get(author, 0) >= last for _, view in views for author, last in wanted.items()
            ):
                self.ask(do="resolve")
                return 0
            time.sleep(LOOK_S)

    def _views(self) -> list[tuple[Peer, dict[str, Any]]]:
        answers = self.ask(do="look")
        return list(zip(self.peers, answers, strict=True))


class Hivemind(Swarm):
    def command(self, number: int) -> Sequence[str | Path]:
        python = environment(ROOT / "build" / "equal" / "peers", packages=PACKAGES) / "python"
        others = [address for peer in self.peers for address in peer.hello["addresses"]]
        return (
            python,
            OUR_PEER.with_name("hivemind_peer.py"),
            str(self.num_values),
            str(number),
            str(NUM_PEERS),
            *others,
        )

    def equalise(self, number: int) -> int:
        self.ask(do="change", number=number)
        for lost in range(MAX_TRIES):
            answers = self.ask(do="step", timeout_s=GROUP_TIMEOUT_S)
            if not answers:
                raise TimeoutError
            samples = np.array([answer["sample"] for answer in answers])
            if float(np.ptp(samples, axis=0).max()) <= TOLERANCE * CHANGE:
                return lost
        raise TimeoutError


KINDS: dict[str, type[Swarm]] = {"ours": Ours, "hivemind": Hivemind}


@dataclass
class Round:
    seconds: float
    num_bytes: int
    lost: int
    is_equal: bool


def play(swarm: Swarm, number: int, kill_after_s: float | None) -> Round:
    swarm.fill()
    victim = swarm.peers[1 + number % (NUM_PEERS - 1)]
    timer = threading.Timer(kill_after_s, victim.kill) if kill_after_s is not None else None
    watchdog = threading.Timer(LIMIT_S, swarm.end)
    sent, start = loopback_bytes(), time.monotonic()
    for each in (watchdog, timer):
        if each is not None:
            each.start()
    try:
        lost, is_equal = swarm.equalise(number), bool(swarm.peers)
    except TimeoutError:
        lost, is_equal = MAX_TRIES, False
    result = Round(time.monotonic() - start, loopback_bytes() - sent, lost, is_equal)
    watchdog.cancel()
    if timer is not None:
        timer.join()
        swarm.peers = [peer for peer in swarm.peers if peer is not victim]
    return result


def loopback_bytes() -> int:
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[0])
    raise RuntimeError("expected a loopback interface in /proc/net/dev")


def measure(report: Report, name: str, swarm: Swarm, num_rounds: int) -> float:
    """Median seconds of the rounds in which somebody was killed."""
    try:
        play(swarm, 0, None)
        quiet = play(swarm, 1, None)
        _tell(report, f"{name}.undisturbed", [quiet], "nobody killed")
        rounds = [play(swarm, number + 2, quiet.seconds / 2) for number in range(num_rounds)]
    finally:
        swarm.end()
    _tell(report, f"{name}.killed", rounds, f"one of {NUM_PEERS} killed in each of {num_rounds} rounds; medians")
    return statistics.median(each.seconds for each in rounds)


def _tell(report: Report, name: str, rounds: list[Round], against: str) -> None:
    report.fact(f"{name}.seconds", statistics.median(r.seconds for r in rounds), "s to all equal", against=against)
    report.fact(f"{name}.bytes", statistics.median(r.num_bytes for r in rounds), "bytes on loopback", against=against)
    report.fact(f"{name}.lost", sum(r.lost for r in rounds), "tries lost", against=against)
    report.fact(f"{name}.unequal", sum(not r.is_equal for r in rounds), "rounds never equal", against=against)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=100.0, help="of float32 weights")
    parser.add_argument("--rounds", type=int, default=5, help="in which a peer is killed")
    parser.add_argument("--only", choices=KINDS, nargs="+", default=[*KINDS])
    report = Report(__file__, parser=parser)
    num_values = int(report.arguments.megabytes * 1e6 / 4)
    report.fact("weights", 4 * num_values, "bytes", against=f"{NUM_PEERS} peers on loopback")
    seconds = {}
    for name in report.arguments.only:
        with tempfile.TemporaryDirectory() as place:
            seconds[name] = measure(report, name, KINDS[name](Path(place), num_values), report.arguments.rounds)
    if len(seconds) == len(KINDS):
        ratio = seconds["hivemind"] / seconds["ours"]
        report.fact("ours_sooner", ratio, "times", against="median seconds with a peer killed")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
