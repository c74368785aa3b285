"""One row of the swarm tables in docs/lab-notes.md: four trainees in one process, without a network.

    python benchmarks/swarm_emulation.py --mode async --latency 6 --set momentum=0.3 num_rounds=48 steps_per_round=20

sync: all fold all deltas after each round. async: speeds 0.93 to 1.06, starts five steps apart, a delta arrives
`--latency` steps after it was published. lone: one trainee on its quarter, nothing merged. joint: one on all text, four
times the batch. `--set` changes the recipe, `--model` the model. The real trainee, codec and weights; sums in float64,
which is close enough for a loss. A run takes about a minute (lone) to four on one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from harness import Report
from spikemesh.codec import decode_delta
from spikemesh.snn import Layout, ModelConfig, SpikingLM, initialise, to_tensors
from spikemesh.train import Corpus, Recipe, Trainee, Update, batch, held_out_loss

NUM_VOLUNTEERS = 4
SPEEDS = (1.0, 0.93, 1.06, 0.97)
START_STEPS = 5.0
GRID_EXPONENT = -26

Settings = TypeVar("Settings", ModelConfig, Recipe)
Weights = npt.NDArray[np.float64]


def changed(settings: Settings, changes: list[str]) -> Settings:
    """`settings` with "name=value" changes, each read as the type that the setting has."""
    pairs = (change.split("=", 1) for change in changes)
    return replace(settings, **{name: type(getattr(settings, name))(value) for name, value in pairs})


def add(theta: Weights, update: Update, weight: float | None = None) -> None:
    """Fold one update into `theta` [A], in place; with its own weight if none is given."""
    delta = decode_delta(update.delta, num_coordinates=len(theta))
    theta[delta.indices] += (update.weight / 4096 if weight is None else weight) * delta.values(GRID_EXPONENT)


def run_sync(trainees: list[Trainee], recipe: Recipe, theta: Weights) -> Weights:
    for number in range(recipe.num_rounds):
        updates = []
        for trainee in trainees:
            trainee.train(recipe.steps_per_round, number / recipe.num_rounds)
            updates.append(trainee.extract(len(trainees)))
        for update in updates:
            add(theta, update)
        for trainee in trainees:
            trainee.absorb(theta.astype(np.float32))
    return theta


def run_async(trainees: list[Trainee], recipe: Recipe, theta: Weights, latency_steps: float) -> Weights:
    """Time counts in steps of a volunteer of speed 1; whoever is due next takes a step."""
    due = [START_STEPS * i for i in range(len(trainees))]
    arriving: list[list[tuple[float, Update]]] = [[] for _ in trainees]
    seen = [theta.copy() for _ in trainees]
    while any(trainee.step < recipe.num_steps for trainee in trainees):
        i = min((i for i, t in enumerate(trainees) if t.step < recipe.num_steps), key=due.__getitem__)
        trainee, now = trainees[i], due[i]
        here = [update for at, update in arriving[i] if at <= now]
        arriving[i] = [(at, update) for at, update in arriving[i] if at > now]
        for update in here:
            add(seen[i], update)
        if here:
            trainee.absorb(seen[i].astype(np.float32))
        trainee.train(1, trainee.step / recipe.num_steps)
        due[i] += 1 / SPEEDS[i]
        if trainee.step % recipe.steps_per_round == 0:
            update = trainee.extract(len(trainees))
            add(theta, update)
            for j, inbox in enumerate(arriving):
                inbox.append((now if j == i else now + latency_steps, update))
    return theta


def run_alone(trainee: Trainee, recipe: Recipe) -> Weights:
    trainee.train(recipe.num_steps, 0.0)
    return trainee.layout.gather(trainee.model).astype(np.float64)


def run(mode: str, corpus: Corpus, model: SpikingLM, recipe: Recipe, seed: int, latency_steps: float) -> Weights:
    """The weights [A] at the end."""
    tensors: dict[str, Any] = to_tensors(model)

    def trainee(text: Any, number: int, recipe: Recipe) -> Trainee:
        return Trainee(model.config, recipe, tensors, text, seed=1000 * seed + number)

    if mode == "joint":
        wide = replace(recipe, batch_size=recipe.batch_size * NUM_VOLUNTEERS)
        return run_alone(trainee(corpus.train_text, 0, wide), wide)
    if mode == "lone":
        return run_alone(trainee(corpus.shard(0, NUM_VOLUNTEERS), 0, recipe), recipe)
    trainees = [trainee(corpus.shard(i, NUM_VOLUNTEERS), i, recipe) for i in range(NUM_VOLUNTEERS)]
    theta = tensors["theta0"].astype(np.float64)
    return run_sync(trainees, recipe, theta) if mode == "sync" else run_async(trainees, recipe, theta, latency_steps)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("sync", "async", "lone", "joint"), default="async")
    parser.add_argument("--latency", type=float, default=2.0, help="in steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--model", nargs="*", default=[], metavar="NAME=VALUE")
    report = Report(__file__, parser=parser)
    arguments = report.arguments
    torch.set_num_threads(1)
    recipe, config = changed(Recipe(), arguments.set), changed(ModelConfig(), arguments.model)
    corpus, start_s = Corpus.load(), time.process_time()
    windows = batch(corpus.train_text, seed=7, step=1_000_000, batch_size=16, num_tokens=recipe.num_tokens)
    model = initialise(config, windows[:, :-1], seed=arguments.seed)
    theta = run(arguments.mode, corpus, model, recipe, arguments.seed, arguments.latency)
    Layout.of(model).scatter_(model, theta.astype(np.float32))
    name = f"{arguments.mode}.seed{arguments.seed}"
    report.fact(f"{name}.loss", held_out_loss(model, corpus), "nats per byte", against="held-out files")
    report.fact(f"{name}.num_coordinates", len(theta), "alive coordinates", against="")
    report.fact(f"{name}.cpu_seconds", time.process_time() - start_s, "s", against="one core")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
