"""The trainer a node drives: absorb merged weights, train, extract what to publish.

What is different here: *live* weights and *base* are two vectors. Base is the merged model this volunteer last saw;
live is base plus its own unpublished progress. Whatever arrives from others is added to both, so progress is never
overwritten; after `extract` live returns to base, and the own contribution comes back through the merge like anyone
else's.

Everything is synchronous and not thread-safe: the node calls it from one worker thread. Letters: A coordinate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from spikemesh.allocator import keep_freed_memory
from spikemesh.codec import encode_delta
from spikemesh.errors import InvalidData
from spikemesh.snn import Layout, ModelConfig, SpikeMeter, SpikingLM, model_from_tensors, prefers_sparse
from spikemesh.train.data import Bytes, batch
from spikemesh.train.inner import make_optimiser, train_step
from spikemesh.train.outer import OuterState, contribution_weight, outer_step
from spikemesh.train.recipe import Recipe

Floats = npt.NDArray[np.float32]
Poll = Callable[[], Floats | None]


@dataclass(frozen=True, kw_only=True)
class StepStatistics:
    """After one inner step: its number since this volunteer's start, loss (nats per byte), spikes per neuron and
    token, bytes trained on in the step."""

    step: int
    loss: float
    spike_rate: float
    learning_rate: float
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class Update:
    """One round's work, ready to be published."""

    delta: bytes
    """Encoded, see docs/design/wire-format.md."""
    weight: int
    """In 1/4096ths."""
    num_tokens: int
    num_steps: int
    num_sent: int
    train_loss: float
    """Mean over the round, nats per byte."""
    spike_rate: float


@dataclass
class _Round:
    """What has been trained since the last `extract`."""

    num_steps: int = 0
    num_tokens: int = 0
    loss_sum: float = 0.0


class Trainee:
    """One volunteer's model, optimiser and outer state.

    `tensors` is the run's start (`snn.to_tensors`), `text` the volunteer's shard, `seed` its own: batches are a pure
    function of (seed, step). `sparse` keeps nothing but synapses (`SpikingLM`); None: where that is faster. What goes
    in and out is the same. Raises `InvalidData` when the tensors do not fit the config.
    """

    def __init__(
        self,
        config: ModelConfig,
        recipe: Recipe,
        tensors: Mapping[str, npt.NDArray[Any]],
        text: Bytes,
        *,
        seed: int,
        grid_exponent: int = -26,
        sparse: bool | None = None,
    ) -> None:
        keep_freed_memory()
        self.recipe = recipe
        sparse = prefers_sparse() if sparse is None else sparse
        self.model: SpikingLM = model_from_tensors(config, tensors, sparse=sparse)
        self.layout = Layout.of(self.model)
        self._text = text
        self._seed = seed
        self._grid_exponent = grid_exponent
        self._optimiser = make_optimiser(self.model, recipe)
        self._base = self.layout.gather(self.model)
        self._outer = OuterState.zero(self.layout.num_coordinates)
        self._step = 0
        self._round = _Round()
        self._spike_rate = 0.0

    @property
    def step(self) -> int:
        """Inner steps since this volunteer's start."""
        return self._step

    @property
    def round_steps(self) -> int:
        """Inner steps since the last `extract`."""
        return self._round.num_steps

    @property
    def base(self) -> Floats:
        """The merged weights last absorbed [A]; do not write to it."""
        return self._base

    def absorb(self, theta: Floats) -> None:
        """Take over newer merged weights [A]: live = theta + (live - base), base = theta."""
        live = self.layout.gather(self.model)
        self.layout.scatter_(self.model, theta + (live - self._base))
        self._base = np.array(theta, np.float32)

    def train(
        self,
        num_steps: int,
        progress: float,
        poll: Poll | None = None,
        on_step: Callable[[StepStatistics], None] | None = None,
    ) -> None:
        """Take `num_steps` inner steps from `progress` in [0, 1] of the run on.

        Between steps `poll` may return newer merged weights, which are absorbed mid-round. An exception from `poll`
        or `on_step` leaves the trainee between two steps: nothing is lost.
        """
        for number in range(num_steps):
            theta = poll() if poll is not None else None
            if theta is not None:
                self.absorb(theta)
            statistics = self._train_step(progress + number / self.recipe.num_steps)
            if on_step is not None:
                on_step(statistics)

    def _train_step(self, progress: float) -> StepStatistics:
        recipe = self.recipe
        rows = batch(
            self._text,
            seed=self._seed,
            step=self._step,
            batch_size=recipe.batch_size,
            num_tokens=recipe.num_tokens,
        )
        rate = recipe.rate_at(progress, self._step / recipe.num_steps)
        with SpikeMeter(self.model) as meter:
            result = train_step(self.model, self._optimiser, torch.from_numpy(rows), rate, recipe)
        self._spike_rate = meter.mean_rate
        self._step += 1
        self._round.num_steps += 1
        self._round.num_tokens += result.num_tokens
        self._round.loss_sum += result.loss
        return StepStatistics(
            step=self._step,
            loss=result.loss,
            spike_rate=self._spike_rate,
            learning_rate=rate,
            num_tokens=result.num_tokens,
        )

    def extract(self, num_authors: int, staleness: float = 0.0) -> Update:
        """Turn the progress since the last call into a contribution, and rewind live to base."""
        done, recipe = self._round, self.recipe
        if done.num_steps == 0:
            raise ValueError("nothing to publish: call train first")
        weight = contribution_weight(recipe, num_authors, staleness)
        progress = self.layout.gather(self.model) - self._base
        delta, self._outer = outer_step(self._outer, progress, recipe, self._grid_exponent)
        self.layout.scatter_(self.model, self._base)
        self._round = _Round()
        return Update(
            delta=encode_delta(delta),
            weight=weight,
            num_tokens=done.num_tokens,
            num_steps=done.num_steps,
            num_sent=len(delta.indices),
            train_loss=done.loss_sum / done.num_steps,
            spike_rate=self._spike_rate,
        )

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything that `load_state` needs to continue bit for bit; copies, [A] each except the counters."""
        first, second = self._moments()
        return {
            "live": self.layout.gather(self.model),
            "base": self._base.copy(),
            "momentum": self._outer.momentum.copy(),
            "error": self._outer.error.copy(),
            "adam.first": self.layout.gather_values(self.model, first),
            "adam.second": self.layout.gather_values(self.model, second),
            "counters": np.array([self._step, self._round.num_steps, self._round.num_tokens], np.int64),
            "sums": np.array([self._round.loss_sum, self._spike_rate], np.float64),
        }

    def load_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continue where `state()` was taken. Raises `InvalidData` if it is not this run's."""
        _check_state(state, self.layout.num_coordinates)
        self.layout.scatter_(self.model, state["live"])
        self._base = state["base"].copy()
        self._outer = OuterState(state["momentum"].copy(), state["error"].copy())
        self._step, num_steps, num_tokens = (int(n) for n in state["counters"])
        loss_sum, self._spike_rate = (float(n) for n in state["sums"])
        self._round = _Round(num_steps, num_tokens, loss_sum)
        self._load_moments(state["adam.first"], state["adam.second"])

    def _moments(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Adam's first and second moments by parameter name; zeros before the first step."""
        held = {name: self._optimiser.state.get(p, {}) for name, p in self.model.named_parameters()}
        zero = {name: torch.zeros_like(p) for name, p in self.model.named_parameters()}
        first = {name: s.get("exp_avg", zero[name]) for name, s in held.items()}
        return first, {name: s.get("exp_avg_sq", zero[name]) for name, s in held.items()}

    def _load_moments(self, first: Floats, second: Floats) -> None:
        self._optimiser = make_optimiser(self.model, self.recipe)
        if self._step == 0:
            return
        spread_first = self.layout.spread_values(self.model, first)
        spread_second = self.layout.spread_values(self.model, second)
        for name, values in self.model.named_parameters():
            self._optimiser.state[values] = {
                "step": torch.tensor(float(self._step)),
                "exp_avg": spread_first[name],
                "exp_avg_sq": spread_second[name],
            }


def _check_state(state: Mapping[str, npt.NDArray[Any]], num_coordinates: int) -> None:
    vector, float32 = (num_coordinates,), np.dtype(np.float32)
    wanted: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
    wanted = dict.fromkeys(("live", "base", "momentum", "error", "adam.first", "adam.second"), (vector, float32))
    wanted |= {"counters": ((3,), np.dtype(np.int64)), "sums": ((2,), np.dtype(np.float64))}
    seen = {name: (values.shape, values.dtype) for name, values in state.items()}
    if seen != wanted:
        raise InvalidData(f"expected a trainer's state with {wanted}, got {seen}; was it written for another run?")
    if int(state["counters"].min()) < 0 or not all(np.isfinite(values).all() for values in state.values()):
        raise InvalidData("expected finite values and counters from 0 on in a trainer's state; it is damaged")
