"""Unequal volunteers in one process: held-out loss against wall time, and what weight a contribution should have.

Volunteers take 0.58, 0.75, 1.51 and 3.33 seconds a step, and a fifth, at 0.75, takes part in one round of ten. Time is
virtual; training, codec and weights are real. `policies` compares, at equal times:

    ours   nobody waits: who has finished a round publishes, weighed as a volunteer weighs itself
    wait   a round lasts as long as its slowest
    drop   a round lasts twice as long as its fastest; what is late is lost

`sweep` makes N equal volunteers fold all deltas after each round, each delta with the weight of a rule.

    python benchmarks/heterogeneous.py --commit
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from harness import Report
from spikemesh.cli.presets import find_preset
from spikemesh.crdt import CausalContext, PastEntry
from spikemesh.node.volunteer import crowd
from spikemesh.snn import Layout, ModelConfig, SpikingLM, initialise, prefers_sparse, to_tensors
from spikemesh.train import Corpus, Recipe, Trainee, Update, batch, held_out_loss
from swarm_emulation import Weights, add

SECONDS_PER_STEP = (0.58, 0.75, 1.51, 3.33, 0.75)
SOMETIMES = 4
"""This one takes part in one round of `EVERY`."""
EVERY = 10
LATENCY_S = 1.0
NUM_TIMES = 8
PATIENCE = 2.0
"""How many of its fastest round's times a round of `drop` lasts."""

CROWDS = (2, 4, 8, 16)
RULES: dict[str, Callable[[int], float]] = {
    "1/N": lambda n: 1 / n,
    "N^-0.85": lambda n: n**-0.85,
    **{f"{kappa}/sqrt(N)": lambda n, kappa=kappa: kappa / n**0.5 for kappa in (0.7, 1.0, 2.0, 4.0)},
}
SWEEP_ROUNDS = 16


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every policy starts from, and a model of its own to measure losses with."""

    corpus: Corpus
    tensors: Mapping[str, npt.NDArray[Any]]
    start: Weights
    judge: SpikingLM
    recipe: Recipe
    seed: int

    @classmethod
    def make(cls, config: ModelConfig, recipe: Recipe, seed: int) -> Setting:
        corpus = Corpus.standard_library()
        windows = batch(corpus.train_text, seed=7, step=1_000_000, batch_size=16, num_tokens=recipe.num_tokens)
        model = initialise(config, windows[:, :-1], seed=seed)
        return cls(
            corpus=corpus,
            tensors=to_tensors(model),
            start=Layout.of(model).gather(model).astype(np.float64),
            judge=model.to_sparse() if prefers_sparse() else model,
            recipe=recipe,
            seed=seed,
        )

    def trainees(self, count: int) -> list[Trainee]:
        return [
            Trainee(
                self.judge.config, self.recipe, self.tensors, self.corpus.shard(i, count), seed=1000 * self.seed + i
            )
            for i in range(count)
        ]

    def loss(self, theta: Weights) -> float:
        """Nats per held-out byte."""
        Layout.of(self.judge).scatter_(self.judge, theta.astype(np.float32))
        return held_out_loss(self.judge, self.corpus)


Moments = Iterator[tuple[float, Weights, int]]
"""(time, merged weights from then on, contributions so far)."""


def ours(setting: Setting, duration_s: float) -> Moments:
    """The rules of `node.volunteer`, on a virtual clock. The run is over when the fastest has made its rounds."""
    recipe, theta = setting.recipe, setting.start.copy()
    trainees = setting.trainees(len(SECONDS_PER_STEP))
    names = [bytes([i]) * 32 for i in range(len(trainees))]
    due = list(SECONDS_PER_STEP)  # when the next step of each ends
    seen = [theta.copy() for _ in trainees]
    arriving: list[list[tuple[float, int, Update]]] = [[] for _ in trainees]
    made = [[0] * len(trainees) for _ in trainees]  # by volunteer: how many rounds of each it knows
    window = [[context(names, made[i])] * 2 for i in range(len(trainees))]
    published = 0
    while (now := min(due)) <= duration_s:
        i = due.index(now)
        trainee = trainees[i]
        began = now - SECONDS_PER_STEP[i]
        here = [item for item in arriving[i] if item[0] <= began]
        arriving[i] = [item for item in arriving[i] if item[0] > began]
        for _, author, update in here:
            add(seen[i], update)
            made[i][author] += 1
        if here:
            trainee.absorb(seen[i].astype(np.float32))
        trainee.train(1, max(made[i]) / recipe.num_rounds)
        due[i] = now + SECONDS_PER_STEP[i]
        if trainee.round_steps < recipe.steps_per_round:
            continue
        update = trainee.extract(*crowd(window[i], context(names, made[i]), names[i], len(trainees) - 1))
        window[i] = [window[i][-1], context(names, made[i])]
        published += 1
        for j, inbox in enumerate(arriving):
            inbox.append((now if j == i else now + LATENCY_S, i, update))
        add(theta, update)
        yield now, theta, published
        if i == SOMETIMES:
            due[i] += (EVERY - 1) * recipe.steps_per_round * SECONDS_PER_STEP[i]


def context(names: list[bytes], rounds: list[int]) -> CausalContext:
    return CausalContext.from_entries(PastEntry(name, count, ()) for name, count in zip(names, rounds, strict=True))


def in_rounds(setting: Setting, duration_s: float, patience: float) -> Moments:
    """Rounds for all at once; each is over when the slowest is done, or after `patience` times the fastest."""
    recipe, theta = setting.recipe, setting.start.copy()
    trainees = setting.trainees(len(SECONDS_PER_STEP))
    now, number, published = 0.0, 0, 0
    while True:
        present = [i for i in range(len(trainees)) if i != SOMETIMES or number % EVERY == EVERY - 1]
        times = {i: recipe.steps_per_round * SECONDS_PER_STEP[i] for i in present}
        end = min(max(times.values()), patience * min(times.values()))
        in_time = [i for i in present if times[i] <= end]
        if now + end > duration_s:
            return
        updates = []
        for i in in_time:
            trainees[i].absorb(theta.astype(np.float32))
            trainees[i].train(recipe.steps_per_round, now / duration_s)
            updates.append(trainees[i].extract(len(in_time)))
        for update in updates:
            add(theta, update)
        now, number, published = now + end, number + 1, published + len(updates)
        yield now, theta, published


POLICIES: dict[str, Callable[[Setting, float], Moments]] = {
    "ours": ours,
    "wait": lambda setting, duration_s: in_rounds(setting, duration_s, float("inf")),
    "drop": lambda setting, duration_s: in_rounds(setting, duration_s, PATIENCE),
}


def policies(report: Report, setting: Setting) -> None:
    duration_s = setting.recipe.num_steps * min(SECONDS_PER_STEP)
    last: dict[str, float] = {}
    for name, policy in POLICIES.items():
        times = [duration_s * (k + 1) / NUM_TIMES for k in range(NUM_TIMES)]
        theta, published = setting.start.copy(), 0
        for now, merged, count in policy(setting, duration_s):
            while times and now > times[0]:
                _tell(report, setting, f"{name}.{times.pop(0):.0f}s", theta, published)
            theta, published = merged.copy(), count
        for time in times:
            last[name] = _tell(report, setting, f"{name}.{time:.0f}s", theta, published)
    for name in ("wait", "drop"):
        against = f"held-out loss of {name} minus ours, at the end"
        report.at_least(f"ours_below.{name}", last[name] - last["ours"], "nats per byte", bar=0.0, against=against)


def _tell(report: Report, setting: Setting, name: str, theta: Weights, published: int) -> float:
    loss = setting.loss(theta)
    report.fact(name, loss, "nats per held-out byte", against=f"{published} contributions")
    return loss


def sweep(report: Report, setting: Setting) -> None:
    setting = replace(setting, recipe=replace(setting.recipe, num_rounds=SWEEP_ROUNDS))
    for crowd_size in CROWDS:
        losses = {}
        for name, weight in RULES.items():
            losses[name] = setting.loss(_folded(setting, crowd_size, weight(crowd_size)))
            against = f"{crowd_size} volunteers, weight {weight(crowd_size):.3f}"
            report.fact(f"sweep.{crowd_size}.{name}", losses[name], "nats per held-out byte", against=against)
        best = min(losses, key=losses.__getitem__)
        report.fact(f"sweep.{crowd_size}.best", best, "rule", against=f"{losses[best]:.4f} nats per held-out byte")


def _folded(setting: Setting, crowd_size: int, weight: float) -> Weights:
    """All fold all deltas after each round, each with `weight`."""
    recipe, theta = setting.recipe, setting.start.copy()
    trainees = setting.trainees(crowd_size)
    for number in range(recipe.num_rounds):
        updates = []
        for trainee in trainees:
            trainee.train(recipe.steps_per_round, number / recipe.num_rounds)
            updates.append(trainee.extract(crowd_size))
        for update in updates:
            add(theta, update, weight)
        for trainee in trainees:
            trainee.absorb(theta.astype(np.float32))
    return theta


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("policies", "sweep"), nargs="+", default=["policies", "sweep"])
    parser.add_argument("--rounds", type=int, help="of the fastest volunteer (default: the demo's)")
    parser.add_argument("--seed", type=int, default=0)
    report = Report(__file__, parser=parser)
    torch.set_num_threads(1)
    config, recipe = find_preset("demo")
    if report.arguments.rounds is not None:
        recipe = replace(recipe, num_rounds=report.arguments.rounds)
    setting = Setting.make(config, recipe, report.arguments.seed)
    for part in report.arguments.only:
        {"policies": policies, "sweep": sweep}[part](report, setting)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
