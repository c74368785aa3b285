"""How long a demo will take, from a measured training step, and how many rounds there is time for.

`fit` is a pure function; `measure_step_s` is the measurement.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from spikemesh.cli.demo.facts import Length
from spikemesh.cli.model import build_model
from spikemesh.crdt import Genesis

LONGEST_S = 20 * 60.0
"""A demo that would take longer trains fewer rounds, unless it is told to run in full."""

FEWEST_ROUNDS = 5
"""With fewer there is no middle in which to kill one volunteer and let another one join."""

SWARM_STEPS = 4.4
"""Training steps of all volunteers, for each step of one: four from start to end, the late one for what is left."""

BASELINE_STEPS, JOINT_STEPS, JOINT_THREADS = 5.0, 4.0, 2
"""Of both, and of the joint run alone, which has two threads for four times the batch."""

OVERHEAD = 1.25
"""A whole demo over its training steps alone, on two AVX2 cores: they share caches, and talk, save and check."""

FIXED_S = 40.0
"""Processes that start, the evaluation at the end, the report."""

WARM_UP_STEPS, MEASURED_STEPS, LONGEST_MEASUREMENT_S = 2, 5, 30.0


@dataclass(frozen=True)
class Work:
    """What a demo has to do: the preset's rounds, and the processors that it may use."""

    num_rounds: int
    steps_per_round: int
    num_cores: int


def expected_s(step_s: float, num_rounds: int, work: Work) -> float:
    """Seconds of a demo of `num_rounds` in all, where one step of one volunteer on one core takes `step_s`."""
    swarm = SWARM_STEPS / min(work.num_cores, 4)
    baselines = max(BASELINE_STEPS / work.num_cores, JOINT_STEPS / JOINT_THREADS)
    return FIXED_S + OVERHEAD * step_s * num_rounds * work.steps_per_round * (swarm + baselines)


def fit(step_s: float, work: Work, *, full: bool = False) -> Length:
    """All rounds if they fit into `LONGEST_S` or if `full`; else as many as do, but not fewer than `FEWEST_ROUNDS`."""
    whole_s = expected_s(step_s, work.num_rounds, work)
    num_rounds = work.num_rounds
    if whole_s > LONGEST_S and not full:
        per_round_s = (whole_s - FIXED_S) / work.num_rounds
        num_rounds = min(num_rounds, max(FEWEST_ROUNDS, int((LONGEST_S - FIXED_S) / per_round_s)))
    return Length(
        step_s=step_s,
        num_rounds=num_rounds,
        whole_rounds=work.num_rounds,
        expected_s=expected_s(step_s, num_rounds, work),
        whole_s=whole_s,
    )


def measure_step_s(genesis: Genesis, start: Mapping[str, npt.NDArray[Any]]) -> float:
    """Seconds of one training step as a volunteer takes it, on one thread: the median of a few, on noise for text."""
    import torch

    from spikemesh.train import Recipe, make_optimiser, train_step

    recipe, threads = Recipe.from_dict(genesis.recipe), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = build_model(genesis, start)
        optimiser, rng = make_optimiser(model, recipe), torch.Generator().manual_seed(0)
        windows = torch.randint(256, (recipe.batch_size, recipe.num_tokens + 1), generator=rng)
        begin_s, seconds = time.monotonic(), list[float]()
        while len(seconds) < WARM_UP_STEPS + MEASURED_STEPS:
            step_start_s = time.monotonic()
            train_step(model, optimiser, windows, recipe.learning_rate, recipe)
            seconds.append(time.monotonic() - step_start_s)
            if time.monotonic() - begin_s > LONGEST_MEASUREMENT_S:
                break
    finally:
        torch.set_num_threads(threads)
    return statistics.median(seconds[WARM_UP_STEPS:] or seconds[-1:])
