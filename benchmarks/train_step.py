"""A whole training step: synapses only and compiled kernels, against masked dense layers and a loop over time in torch.

The same model, start, text and optimiser on both sides, each in a process of its own, taking steps in turn. Speed is
compared on one core by CPU time (and on all cores by wall time): the median of pairs, with the least and the largest.
Losses are compared step by step. All of it once per instruction set that the machine has, torch limited alike (`sets`).

  large   22.8 million weights (--width, --hidden), 1,024 bytes a step
  demo    the model and the batch of `make demo`, on one core
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save_file

from harness import Report, Spread
from sets import bar_in, per_set
from spikemesh.cli.presets import find_preset
from spikemesh.snn import Layout, ModelConfig, initialise, to_tensors
from spikemesh.train import Corpus, Recipe, batch
from spiking.rounds import Worker, in_turn, seconds_of

SCRIPT = Path(__file__).parent / "spiking" / "train_worker.py"
RECIPE = Recipe(batch_size=8, num_tokens=128, learning_rate=0.01)
"""At twice the rate the sides part by 0.002 within 20 steps: a last bit becomes a spike, a spike another gradient."""
SHAPES = ("large", "demo")

Answers = Mapping[str, Sequence[Mapping[str, Any]]]


def write_start(place: Path, config: ModelConfig, recipe: Recipe) -> int:
    """The start of a run, as its workers read it; returns the number of coordinates."""
    text = Corpus.standard_library().shard(0, 8)
    sample = batch(text, seed=0, step=0, batch_size=8, num_tokens=128)[:, :-1]
    model = initialise(config, sample, seed=0)
    save_file({**to_tensors(model), "text": text.copy()}, place / "start.safetensors")
    settings = {"model": config.to_dict(), "recipe": recipe.to_dict()}
    (place / "settings.json").write_text(json.dumps(settings))
    return Layout.of(model).num_coordinates


def run(place: Path, threads: int, steps: int) -> tuple[Answers, dict[str, dict[str, Any]]]:
    """The answers of both sides, and the facts that they begin with."""
    facts: dict[str, dict[str, Any]] = {}

    def start(kind: str, environment: Mapping[str, str]) -> Worker:
        worker = Worker([sys.executable, SCRIPT, place, kind, str(threads)], environment)
        facts[kind] = worker.facts
        return worker

    makers = {"dense": partial(start, "dense", {"SPIKEMESH_KERNELS": "numpy"}), "sparse": partial(start, "sparse", {})}
    return in_turn(makers, steps // 2, warm_up=0), facts


def report_speed(report: Report, answers: Answers, name: str, num_tokens: int, bar: float | None = None) -> None:
    seconds = seconds_of(answers)
    for kind, values in seconds.items():
        ms = Spread.of([1000 * each for each in values])
        report.fact(f"{name}.{kind}", ms, "ms per step", against=f"{num_tokens} tokens")
    ratio, against = (
        Spread.of_ratios(seconds["dense"], seconds["sparse"]),
        "masked dense layers and a LIF loop in torch",
    )
    report.at_least(f"{name}.ratio", ratio, "times faster", bar=bar, against=against)


def report_losses(report: Report, answers: Answers) -> None:
    losses = {kind: [answer["loss"] for answer in given] for kind, given in answers.items()}
    apart = max(abs(ours - theirs) for ours, theirs in zip(losses["sparse"], losses["dense"], strict=True))
    report.fact("loss.first", losses["sparse"][0], "nats per byte", against="training batch")
    report.fact("loss.last", losses["sparse"][-1], "nats per byte", against="training batch")
    against = f"the dense side's loss, all of {len(losses['dense'])} steps"
    report.at_most("loss.apart", apart, "nats per byte", bar=1e-4, against=against)


def report_memory(report: Report, answers: Answers, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Weights, their gradients and two moments are four times the weights."""
    for kind, fact in facts.items():
        report.fact(f"memory.{kind}", 4 * fact["weight_bytes"], "bytes", against="weights, gradients, two moments")
        report.fact(f"peak.{kind}", max(a["peak_bytes"] for a in answers[kind]), "bytes", against="the whole process")
    share = facts["sparse"]["weight_bytes"] / facts["dense"]["weight_bytes"]
    report.at_most("memory.share", share, "of dense", bar=0.12, against="weights, gradients, two moments in full")
    report.fact("memory.pattern", facts["sparse"]["pattern_bytes"], "bytes", against="where the synapses are")


def measure_large(report: Report, place: Path) -> None:
    config, steps = ModelConfig(width=report.arguments.width, hidden=report.arguments.hidden), report.arguments.steps
    num_tokens = RECIPE.batch_size * RECIPE.num_tokens
    report.fact(
        "model.coordinates",
        write_start(place, config, RECIPE),
        "trained numbers",
        against="synapses, embeddings, neurons",
    )
    report.at_least("model.weights", config.num_weights, "weights", bar=20e6, against="if all were there")
    answers, facts = run(place, 1, steps)
    report_speed(report, answers, "one_core", num_tokens, bar_in(report, 5.0))
    report_losses(report, answers)
    report_memory(report, answers, facts)
    report_speed(report, run(place, torch.get_num_threads(), min(steps, 7))[0], "all_cores", num_tokens)


def measure_demo(report: Report, place: Path) -> None:
    config, recipe = find_preset("demo")
    recipe = replace(recipe, learning_rate=RECIPE.learning_rate)
    write_start(place, config, recipe)
    answers, _ = run(place, 1, report.arguments.steps)
    report_speed(report, answers, "demo", recipe.batch_size * recipe.num_tokens)


def measure(report: Report) -> None:
    parts = {"large": measure_large, "demo": measure_demo}
    for shape in (report.arguments.shape,) if report.arguments.shape else SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            parts[shape](report, Path(folder))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, help="only this one")
    parser.add_argument("--width", type=int, default=2048, help="of the large shape")
    parser.add_argument("--hidden", type=int, default=5120, help="of the large shape")
    parser.add_argument("--steps", type=int, default=20)
    return per_set(__file__, parser, measure)


if __name__ == "__main__":
    sys.exit(main())
