"""`spikemesh join` as it is, with what a test needs beside it: a gate between two rounds, a list of what was
acknowledged, and, with `--cheap SECONDS` before the arguments, a trainee without torch that takes that for a step.

A node's folder then also holds

    gate           made by the test: while it is there, the volunteer waits before its next round, or before the one
                   after as many rounds of this process as it says
    waiting        there while the volunteer waits
    acknowledged   32 bytes for each contribution of this volunteer whose `publish` has returned
    periods        a byte for each gossip period that has begun
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from blake3 import blake3

import spikemesh.cli.join as verb
from spikemesh.cli import main
from spikemesh.cli.folder import RunFolder
from spikemesh.cli.session import Session
from spikemesh.codec import write_tensors
from spikemesh.crdt import Genesis, Record, TensorSpec
from spikemesh.node import Identity, Plan, SystemClock, Volunteer
from spikemesh.sim.run import NUM_COORDINATES, THETA0
from spikemesh.store import Store
from tests.node.world import NumpyTrainee

GATE, WAITING, ACKNOWLEDGED, PERIODS = "gate", "waiting", "acknowledged", "periods"
LOOK_S = 0.02
NUM_ROUNDS = 1 << 20


class Gated:
    """A trainee that waits at the gate before each round. Everything else is the inner trainee's."""

    def __init__(self, inner: Any, folder: Path) -> None:
        self._inner, self._gate, self._waiting = inner, folder / GATE, folder / WAITING
        self._num_rounds = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def train(self, num_steps: int, progress: float, poll: Any, on_step: Any) -> None:
        while self._is_held():
            self._waiting.touch()
            time.sleep(LOOK_S)
        self._waiting.unlink(missing_ok=True)
        self._num_rounds += 1
        self._inner.train(num_steps, progress, poll, on_step)

    def _is_held(self) -> bool:
        with suppress(FileNotFoundError):
            return self._num_rounds >= int(self._gate.read_text() or 0)
        return False


class Cheap(NumpyTrainee):
    """Noise, without torch, at the pace of a model that takes `step_s` for a step."""

    step_s = 0.005

    def train(self, num_steps: int, progress: float, poll: Any, on_step: Any) -> None:
        def paced(report: Any) -> None:
            time.sleep(self.step_s)
            on_step(report)

        super().train(num_steps, progress, poll, paced)


def found_cheap_run(path: Path) -> RunFolder:
    """The folder of a new run's first node, as `spikemesh init` makes it, for `Cheap` volunteers."""
    folder = RunFolder(path)
    start = write_tensors({"theta0": THETA0})
    with Store.open(path) as store:
        store.blobs.put(start)
        founder = Identity.load_or_create(path).id
    folder.set_genesis(
        Genesis(
            name="cheap",
            founder=founder,
            model={},
            recipe={},
            tensors=(TensorSpec("w", (NUM_COORDINATES,), NUM_COORDINATES, False),),
            init_hash=blake3(start).digest(),
            init_bytes=len(start),
        )
    )
    return folder


def _cheap_volunteer(session: Session, data: object, shard: object, seed: int, threads: object) -> Volunteer:
    return Volunteer(
        node=session.node,
        identity=session.identity,
        trainee=Cheap(seed),
        plan=Plan(num_rounds=NUM_ROUNDS, steps_per_round=3),
        folder=session.folder.path,
        clock=SystemClock(),
    )


def _watched(make: Callable[..., Volunteer]) -> Callable[..., Volunteer]:
    def volunteer(session: Session, *options: Any) -> Volunteer:
        made = make(session, *options)
        made._trainee = Gated(made._trainee, session.folder.path)
        publish = session.node.publish
        log = os.open(session.folder.path / ACKNOWLEDGED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(log, os.fstat(log).st_size // 32 * 32)  # the last may have been cut by a kill

        async def publish_and_say(record: Record, blobs: dict[bytes, bytes]) -> None:
            await publish(record, blobs)
            os.write(log, record.id)

        session.node.publish = publish_and_say  # type: ignore[method-assign]
        _count_periods(session)
        return made

    return volunteer


def _count_periods(session: Session) -> None:
    gossip, choose = session.node.gossip, session.node.gossip._choose
    periods = os.open(session.folder.path / PERIODS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def choose_and_count() -> Any:
        os.write(periods, b".")
        return choose()

    gossip._choose = choose_and_count  # type: ignore[method-assign]


def instrument(*, cheap: bool) -> None:
    """Make this process's `spikemesh join` one that tests can watch."""
    verb._volunteer = _watched(_cheap_volunteer if cheap else verb._volunteer)
    if cheap:
        verb.export_model = lambda session: None


if __name__ == "__main__":
    cheap = sys.argv[1] == "--cheap"
    instrument(cheap=cheap)
    if cheap:
        Cheap.step_s = float(sys.argv[2])
        del sys.argv[1:3]
    main()
