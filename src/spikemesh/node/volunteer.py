"""A volunteer: a node that trains. It works in rounds: train a few steps, publish the delta, take in what came.

Training runs in a worker thread; what peers send meanwhile is added between two steps. The trainee's own state is on
the disk before its contribution is, so a restart after a crash goes on where the last published round ended, and one
after an orderly stop in the middle of the round.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from spikemesh.codec import bounded_past, read_tensor_file, sign_record, write_tensors
from spikemesh.crdt import CausalContext, Contribution, RecordSet, Replica
from spikemesh.files import write_file_atomic
from spikemesh.node.clock import Clock, Offload
from spikemesh.node.identity import Identity
from spikemesh.node.node import Node
from spikemesh.node.statistics import VolunteerStatistics

Theta = npt.NDArray[np.float32]


class Update(Protocol):
    """What a round gives: an encoded delta, its weight in 1/4096ths, and what to tell people."""

    @property
    def delta(self) -> bytes: ...
    @property
    def weight(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...


class Trainee(Protocol):
    """What trains. Called from one worker thread at a time; knows nothing of records or networks."""

    @property
    def round_steps(self) -> int:
        """Steps taken since the last `extract`."""
        ...

    def absorb(self, theta: Theta) -> None:
        """Take newer merged weights: what others added is added to the live weights and to the base."""
        ...

    def train(
        self,
        num_steps: int,
        progress: float,
        poll: Callable[[], Theta | None],
        on_step: Callable[[StepReport], None],
    ) -> None:
        """Take inner steps from `progress` of the run (0..1) on, absorbing what `poll` gives between two of them."""
        ...

    def extract(self, num_authors: int, staleness: float) -> Update:
        """End the round: what to publish. The live weights go back to the base."""
        ...

    def state(self) -> dict[str, npt.NDArray[Any]]: ...
    def load_state(self, state: Mapping[str, npt.NDArray[Any]], /) -> None: ...


class StepReport(Protocol):
    @property
    def loss(self) -> float: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def spike_rate(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long to train: the run is at round r when some author has published r contributions."""

    num_rounds: int
    steps_per_round: int


class _Stopped(Exception):
    """Raised between two steps to leave the worker thread."""


class Volunteer:
    """`training` runs the inner steps; without it, they run where the node's other work does."""

    def __init__(
        self,
        *,
        node: Node,
        identity: Identity,
        trainee: Trainee,
        plan: Plan,
        folder: Path,
        clock: Clock,
        training: Offload | None = None,
    ) -> None:
        self._node, self._identity, self._trainee, self._plan, self._clock = node, identity, trainee, plan, clock
        self._training = training or node.offload
        self._folder = folder / "trainee"
        self._absorbed: Replica | None = None
        self._stopping = False
        self._state, self._step, self._num_tokens, self._busy_s = "starting", 0, 0, 0.0
        self._loss: float | None = None
        self._spike_rate: float | None = None

    async def run(self) -> None:
        """Train until the run is over. Cancelled, it leaves between two steps."""
        self._load_state()
        window = [self._context, self._context]
        while (position := run_round(self._node.ledger.replica.records)) < self._plan.num_rounds:
            self._state = "training"
            window = [window[-1], self._context]
            self._absorb()
            await self._train_until_cancelled(position)
            await self._publish(window)
        self._state = "done"

    def statistics(self) -> VolunteerStatistics:
        position = run_round(self._node.ledger.replica.records)
        return VolunteerStatistics(
            state=self._state,
            round=min(position, self._plan.num_rounds),
            num_rounds=self._plan.num_rounds,
            step=self._step,
            num_tokens=self._num_tokens,
            tokens_per_s=self._num_tokens / self._busy_s if self._busy_s else 0.0,
            loss=self._loss,
            spike_rate=self._spike_rate,
            progress=min(1.0, position / self._plan.num_rounds),
        )

    @property
    def _context(self) -> CausalContext:
        return self._node.ledger.replica.records.context

    async def _train_until_cancelled(self, position: int) -> None:
        task = asyncio.ensure_future(self._training(self._train, position))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            self._stopping = True
            with contextlib.suppress(_Stopped):
                await task
            self._save_state(self._node.ledger.next_seq(self._node.id) - 1)  # with the round's steps so far
            raise

    def _train(self, position: int) -> None:
        start, progress = self._clock.monotonic_s(), position / self._plan.num_rounds
        num_steps = self._plan.steps_per_round - self._trainee.round_steps
        self._trainee.train(num_steps, progress, self._poll, self._on_step)
        self._busy_s += self._clock.monotonic_s() - start

    def _poll(self) -> Theta | None:
        """Between two steps: newer merged weights, if there are any."""
        replica = self._node.ledger.replica
        if replica is self._absorbed:
            return None
        self._absorbed = replica
        return self._node.ledger.resolve(replica)

    def _absorb(self) -> None:
        if (theta := self._poll()) is not None:
            self._trainee.absorb(theta)

    def _on_step(self, report: StepReport) -> None:
        if self._stopping:
            raise _Stopped
        self._step += 1
        self._num_tokens += report.num_tokens
        self._spike_rate = report.spike_rate
        self._loss = report.loss if self._loss is None else 0.9 * self._loss + 0.1 * report.loss

    async def _publish(self, window: list[CausalContext]) -> None:
        num_authors, staleness = crowd(window, self._context, self._node.id, self._node.peers.num_alive())
        update = await self._node.offload(self._trainee.extract, num_authors, staleness)
        context = self._context
        contribution = Contribution(
            run_id=self._node.ledger.run_id,
            author=self._node.id,
            seq=self._node.ledger.next_seq(self._node.id),
            past=bounded_past(context, self._node.id),
            weight=update.weight,
            delta_hash=blake3(update.delta).digest(),
            delta_bytes=len(update.delta),
            num_tokens=update.num_tokens,
        )
        await self._node.offload(self._save_state, contribution.seq)
        record = sign_record(contribution, self._identity.private_key)
        await self._node.publish(record, {contribution.delta_hash: update.delta})

    def _save_state(self, seq: int) -> None:
        """The trainee as it is after publishing `seq`. The one before is kept: `seq` may not get to be published."""
        write_file_atomic(self._state_path(seq), write_tensors(self._trainee.state()))
        self._state_path(seq - 2).unlink(missing_ok=True)

    def _load_state(self) -> None:
        """Go on after the last contribution that this node knows of itself. Without its state, start from the merge."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._state_path(self._context.last(self._node.id))
        if path.exists():
            self._trainee.load_state(read_tensor_file(path.read_bytes()))
        self._absorb()

    def _state_path(self, seq: int) -> Path:
        return self._folder / f"{seq}.safetensors"


def run_round(records: RecordSet) -> int:
    """The round a run is at: the most contributions that any one author has published."""
    context = records.context
    return max((context.last(author) for author in context.authors()), default=0)


def crowd(window: list[CausalContext], now: CausalContext, me: bytes, num_alive: int) -> tuple[int, float]:
    """(N, staleness) at the end of a round, from the contexts at the start of the last round and of this one.

    N counts me and everybody who published since the start of the last round, or, when nobody has yet, whoever
    answers. Staleness is how many whole rounds the others made during mine, beyond one: those who keep pace see
    one and a bit as often as one and a bit less, and are not late.
    """
    recent = [a for a in now.authors() if a != me and now.last(a) > window[0].last(a)]
    moved = [now.last(a) - window[1].last(a) for a in recent]
    whole_rounds = sum(moved) // len(moved) if moved else 0
    return 1 + (len(recent) or num_alive), max(0.0, whole_rounds - 1.0)
