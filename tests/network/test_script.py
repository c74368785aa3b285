"""Five real volunteers on three hosts train through all that a network does to them, one thing after the other.

    middle: volunteer 1        reachable by everybody
    left, right: 2 and 3, 4 and 5   each host behind a NAT of its own

After each thing everybody is held between two rounds, and all five must come to the same records and the same sum, to
the bit, while it lasts where it lets anything through, and within three gossip periods after it where it does not.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from spikemesh.cli.demo.swarm import Swarm
from spikemesh.cli.folder import RunFolder
from spikemesh.cli.init import create_run
from spikemesh.node.gossip import GossipConfig
from tests.network.lab import PUBLIC_PORT, Host, Lab, both_ways
from tests.network.test_cases import HEAL_PERIODS
from tests.volunteers.crew import ROOT, Crewman, start_all, until, until_equal

PERIOD_S = GossipConfig().period_s
UNDER_WEATHER_PERIODS = 15
"""Of gossip, until all are equal while packets are lost or late."""

NUM_ROUNDS = 2
"""That everybody must publish in each weather."""


class Scene:
    def __init__(self, place: Path, lab: Lab) -> None:
        self.lab = lab
        self.middle, self.left, self.right = lab.host("middle"), lab.host("left", nat=True), lab.host("right", nat=True)
        self.elsewhere = lab.host("elsewhere")
        self.hosts = [self.middle, self.left, self.left, self.right, self.right]
        found(place)
        self.crew = [self._volunteer(place, number, host) for number, host in enumerate(self.hosts, 1)]
        self.took_s: list[tuple[str, float]] = []

    def _volunteer(self, place: Path, number: int, host: Host) -> Crewman:
        options = ["--data", str(place / "text"), "--shard", f"{number}/5", "--seed", str(number), "--threads", "1"]
        options += ["--bind", f"0.0.0.0:{PUBLIC_PORT + number}"]
        return Crewman(place / f"volunteer-{number}", options, step_s=None, prefix=host.prefix)

    def train(self, num_rounds: int = NUM_ROUNDS) -> None:
        """Everybody publishes so many rounds more, then all are held."""
        before = self.published()
        for member in self.crew:
            member.let_go()
        until(
            lambda: all(now >= then + num_rounds for now, then in zip(self.published(), before, strict=True)),
            self.crew,
        )
        for member in self.crew:
            member.hold()
        until(lambda: all(member.is_held for member in self.crew), self.crew)

    def published(self) -> list[int]:
        return [seen.num_own if (seen := member.statistics()) is not None else 0 for member in self.crew]

    def agree(self, what: str, num_periods: int) -> None:
        """All hold the same records and sum, and these are everything that was published."""
        self.took_s.append((what, until_equal(self.crew, num_periods)))

    def through(self, what: str) -> None:
        self.train()
        self.agree(what, UNDER_WEATHER_PERIODS)

    def cut_and_heal(self, what: str, cut: list[tuple[Host, Host]], num_rounds: int = NUM_ROUNDS) -> None:
        """Both sides train on while nothing passes; the clock runs from the moment at which everything does again."""
        self.lab.weather(cut=cut)
        self.train(num_rounds)
        seen = {member.statistics().digest for member in self.crew}  # type: ignore[union-attr]
        assert len(seen) > 1, "the cut let something pass"
        self.lab.weather()
        self.agree(f"after {what}", HEAL_PERIODS)


def found(place: Path) -> None:
    """A run of a tiny model that is not over before the script is, with its text beside it."""
    (place / "text").mkdir()
    for module in ("argparse", "ast", "calendar", "csv", "dataclasses", "difflib", "inspect"):
        shutil.copy(Path(__import__(module).__file__ or ""), place / "text")
    run = RunFolder(place / "volunteer-1")
    create_run(run, data=place / "text", name="script", preset="tiny", seed=0)
    genesis = run.genesis()
    recipe = genesis.recipe | {"num_rounds": 100_000, "warmup": 0.0, "steps_per_round": 25, "learning_rate": 0.003}
    run.set_genesis(msgspec.structs.replace(genesis, recipe=recipe))


@pytest.fixture
def scene(lab: Lab, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path, lab)
    with Swarm(list(scene.crew)):
        yield scene


@pytest.mark.long
def test_five_volunteers_train_through_it_all(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    start_all(scene.crew)
    until(lambda: all(count >= 1 for count in scene.published()), scene.crew)
    scene.through("NAT on both sides")
    losses = [member.statistics().volunteer.loss for member in scene.crew]  # type: ignore[union-attr]

    scene.lab.weather(loss=0.3)
    scene.through("30 % loss")
    scene.lab.weather(delay_s=0.2)
    scene.through("200 ms each way")
    scene.lab.weather()

    scene.lab.change_address(scene.left)
    scene.through("an address change behind NAT")

    scene.cut_and_heal("a long partition", both_ways([scene.middle], [scene.left, scene.right]), num_rounds=10)
    scene.cut_and_heal("a link that is deaf one way", [(scene.middle, scene.right)])
    scene.cut_and_heal("a link that is mute one way", [(scene.left, scene.middle)])

    ticket = scene.crew[0].folder.ticket_path.read_text().strip()
    with SilentPeer(scene, ticket):
        scene.through("a peer that accepts and never answers")
        scene.cut_and_heal("a partition, beside a silent peer", both_ways([scene.middle], [scene.left, scene.right]))

    with capsys.disabled():
        print(f"\nseconds to equal digests of five volunteers; a gossip period is {PERIOD_S:g} s")  # noqa: T201
        for what, took_s in scene.took_s:
            print(f"  {took_s:5.2f}  {what}")  # noqa: T201
    ended = [member.statistics() for member in scene.crew]
    for seen, loss in zip(ended, losses, strict=True):
        assert seen is not None and seen.volunteer is not None and seen.volunteer.loss is not None
        assert seen.num_diverged == seen.num_refused == 0
        assert seen.num_starts == 1  # nobody had to be restarted
        assert seen.volunteer.loss < min(loss, math.log(256))  # and they learned something meanwhile


class SilentPeer:
    """A peer on a fourth, public host that greets the middle one, is dialled by everybody, and answers nobody."""

    def __init__(self, scene: Scene, ticket: str) -> None:
        run_id = scene.crew[0].folder.run_id().hex()
        self._command = [*scene.elsewhere.prefix, "env", "-C", str(ROOT), sys.executable, "-m"]
        self._command += ["tests.network.silent_peer", f"0.0.0.0:{PUBLIC_PORT}", run_id, ticket]

    def __enter__(self) -> str:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the silent peer was not welcome"
        return line

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()
