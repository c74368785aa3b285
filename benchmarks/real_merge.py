"""A real merge: two volunteers leave one checkpoint of the demo's model, train on different files, and are merged.

The checkpoint is trained on a third of the standard library's files, the volunteers on the second and the last third.
Twice: *late*, from the finished checkpoint at a lower rate, and *early*, from a tenth of its way, so that they end far
apart. Losses are on held-out files, which nobody trained on. Takes four minutes on one core.

    merged       active mean of the two files            with_base   the same rule on differences from the checkpoint
    calibrated   merged, then thresholds refitted to the parents' mean firing rates
    sum          checkpoint + both differences (task arithmetic)
    barrier      the largest distance of the loss on the straight line between the parents, at a quarter, a half and
                 three quarters, above the line between their losses; negative if all are below
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import spikemesh
from harness import Report
from spikemesh.cli.model import calibrate_model_file, load_model_file
from spikemesh.cli.presets import find_preset
from spikemesh.codec import write_tensors
from spikemesh.snn import SpikingLM, dense_tensors, initialise, model_metadata, to_tensors
from spikemesh.train import CalibrationReport, Corpus, Trainee, batch, held_out_windows, loss_on

NATS = "nats per byte"
HELD_OUT_BYTES = 100_000
WINDOW_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class Setting:
    """When the volunteers part, and how long and at what peak rate each then trains, to the end of a cosine."""

    name: str
    fork_step: int
    num_steps: int
    learning_rate: float
    progress: float
    """Where on the schedule they start."""


LATE = Setting(name="late", fork_step=480, num_steps=240, learning_rate=0.03, progress=0.0)
EARLY = Setting(name="early", fork_step=48, num_steps=192, learning_rate=0.07, progress=0.2)


class Bench:
    """The text, the folder, and what is measured of a model file."""

    def __init__(self, place: Path, report: Report) -> None:
        self.place, self.report, self.corpus = place, report, Corpus.load()
        self._windows = held_out_windows(self.corpus.held_out_text, num_bytes=HELD_OUT_BYTES, num_tokens=WINDOW_TOKENS)

    def save(self, name: str, model: SpikingLM) -> Path:
        path = self.place / f"{name}.safetensors"
        path.write_bytes(write_tensors(dense_tensors(model), model_metadata(model.config)))
        return path

    def loss(self, path: Path) -> float:
        return loss_on(load_model_file(path), self._windows)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model file, and the same weights as a run's start."""

    path: Path
    start: Mapping[str, npt.NDArray[Any]]


def checkpoints(bench: Bench) -> dict[int, Checkpoint]:
    """One run of the demo's preset, kept at the steps at which a setting forks."""
    config, recipe = find_preset("demo")
    text = bench.corpus.shard(0, 3)
    sample = batch(text, seed=0, step=1_000_000, batch_size=16, num_tokens=recipe.num_tokens)
    trainee = Trainee(config, recipe, to_tensors(initialise(config, sample[:, :-1], seed=0)), text, seed=0)
    kept = {}
    for step in sorted({EARLY.fork_step, LATE.fork_step}):
        trainee.train(step - trainee.step, trainee.step / recipe.num_steps)
        kept[step] = Checkpoint(bench.save(f"step-{step}", trainee.model), to_tensors(trainee.model))
    return kept


def volunteers(bench: Bench, fork: Checkpoint, setting: Setting) -> list[Path]:
    """Both, each trained on its own third of the files."""
    config, recipe = find_preset("demo")
    num_rounds = round(setting.num_steps / (1 - setting.progress)) // recipe.steps_per_round
    recipe = replace(recipe, learning_rate=setting.learning_rate, num_rounds=num_rounds)
    parents = []
    for shard in (1, 2):
        trainee = Trainee(config, recipe, fork.start, bench.corpus.shard(shard, 3), seed=shard)
        trainee.train(setting.num_steps, setting.progress)
        parents.append(bench.save(f"{setting.name}-{shard}", trainee.model))
    return parents


def merged(
    parents: Sequence[Path],
    out: Path,
    *,
    base: Path | None = None,
    rule: str | None = None,
    weights: Sequence[str] = (),
) -> Path:
    spikemesh.merge(parents, out=out, base=base, rule=rule, weights=weights or None)
    return out


def calibrated(parents: Sequence[Path], merge: Path) -> tuple[Path, CalibrationReport]:
    """A copy of the merged file, refitted on 64 windows of 256 bytes of the training text."""
    path = merge.with_suffix(".calibrated.safetensors")
    shutil.copy(merge, path)
    return path, calibrate_model_file(path, dict.fromkeys(parents, 1.0), None)


def theta(path: Path) -> npt.NDArray[np.float32]:
    """Every weight of a file, masked ones as zeros."""
    return np.concatenate([values.ravel() for values in dense_tensors(load_model_file(path)).values()])


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two parents and what was merged from them."""

    setting: Setting
    fork: Checkpoint
    parents: Sequence[Path]
    ends: tuple[float, float]
    """Losses of the parents."""
    merged: Path
    merged_loss: float


def measure_pair(bench: Bench, fork: Checkpoint, setting: Setting) -> Pair:
    """Train both volunteers, merge, calibrate, and tell the losses, the barrier half way, and the rates."""
    report, name = bench.report, setting.name
    parents = volunteers(bench, fork, setting)
    out = merged(parents, bench.place / f"{name}-merged.safetensors")
    ends = bench.loss(parents[0]), bench.loss(parents[1])
    pair = Pair(setting=setting, fork=fork, parents=parents, ends=ends, merged=out, merged_loss=bench.loss(out))
    tell_distance(report, pair)
    report.fact(f"{name}.loss.fork", bench.loss(fork.path), NATS, against=f"step {setting.fork_step} of 480")
    for number, loss in enumerate(ends, 1):
        report.fact(f"{name}.loss.parent{number}", loss, NATS, against=f"{setting.num_steps} steps on its own files")
    mean, against = sum(ends) / 2, "its parents' mean loss"
    if setting is LATE:
        report.at_most(f"{name}.loss.merged", pair.merged_loss, NATS, bar=mean, against=against)
    else:
        report.fact(f"{name}.loss.merged", pair.merged_loss, NATS, against=f"{against}: {mean:.5g}")
    path, refitted = calibrated(parents, out)
    report.fact(f"{name}.loss.calibrated", bench.loss(path), NATS, against=f"merged: {pair.merged_loss:.5g}")
    tell_barrier(bench, pair)
    tell_rates(report, name, refitted)
    return pair


def measure_rules(bench: Bench, pair: Pair) -> None:
    """The same parents by the rules that need the checkpoint they came from."""
    report, name = bench.report, pair.setting.name
    with_base = merged(pair.parents, bench.place / f"{name}-with-base.safetensors", base=pair.fork.path)
    apart = int(np.count_nonzero(theta(pair.merged) != theta(with_base)))
    report.fact(f"{name}.with_base.different", apart, "coordinates", against="merged without a base")
    total = merged(pair.parents, bench.place / f"{name}-sum.safetensors", base=pair.fork.path, rule="sum")
    total_calibrated, refitted = calibrated(pair.parents, total)
    for key, path in (("with_base", with_base), ("sum", total), ("sum.calibrated", total_calibrated)):
        report.fact(f"{name}.loss.{key}", bench.loss(path), NATS, against=f"merged: {pair.merged_loss:.5g}")
    tell_shift(report, f"{name}.sum", refitted)


def tell_distance(report: Report, pair: Pair) -> None:
    name, start = pair.setting.name, theta(pair.fork.path)
    moves = [theta(parent) - start for parent in pair.parents]
    norms = [float(np.linalg.norm(move)) for move in moves]
    for number, norm in enumerate(norms, 1):
        share = norm / float(np.linalg.norm(start))
        report.fact(f"{name}.moved.parent{number}", share, "fraction", against="the checkpoint's weights, by norm")
    cosine = float(moves[0] @ moves[1]) / (norms[0] * norms[1])
    report.fact(f"{name}.moved.cosine", cosine, "", against="between both moves; 0: unrelated")


def tell_barrier(bench: Bench, pair: Pair) -> None:
    name, losses = pair.setting.name, {0.5: pair.merged_loss}
    for share in (0.25, 0.75):
        out = bench.place / f"{name}-{share}.safetensors"
        losses[share] = bench.loss(merged(pair.parents, out, weights=[str(1 - share), str(share)]))
        bench.report.fact(f"{name}.line.{share}", losses[share], NATS, against=f"{share} of the way to parent 2")
    first, second = pair.ends
    barrier = max(loss - ((1 - share) * first + share * second) for share, loss in losses.items())
    against = "the straight line between the parents' losses"
    if pair.setting is LATE:
        bench.report.at_most(f"{name}.barrier", barrier, NATS, bar=0.0, against=against)
    else:
        bench.report.fact(f"{name}.barrier", barrier, NATS, against=against)


def tell_rates(report: Report, name: str, refitted: CalibrationReport) -> None:
    unit = "spikes per neuron and token"
    for refit in refitted.refits:
        against = f"parents' mean: {refit.target:.5g}"
        report.fact(f"{name}.rate.{refit.name}.merged", refit.before, unit, against=against)
        report.fact(f"{name}.rate.{refit.name}.calibrated", refit.after, unit, against=against)
        report.fact(f"{name}.rate.{refit.name}.factor", refit.factor, "", against="on its thresholds")
    tell_shift(report, name, refitted)


def tell_shift(report: Report, name: str, refitted: CalibrationReport) -> None:
    against = "parents' mean rate, worst population"
    report.fact(f"{name}.rate_shift.merged", refitted.shift_before, "fraction", against=against)
    shift, bar = refitted.shift_after, refitted.tolerance
    report.at_most(f"{name}.rate_shift.calibrated", shift, "fraction", bar=bar, against=against)


def measure(report: Report, place: Path) -> None:
    """Everything above, its files in `place`."""
    os.environ.setdefault("SPIKEMESH_CACHE", str(place / "cache"))
    bench, start_s = Bench(place, report), time.process_time()
    kept = checkpoints(bench)
    measure_rules(bench, measure_pair(bench, kept[LATE.fork_step], LATE))
    measure_pair(bench, kept[EARLY.fork_step], EARLY)
    report.fact("cpu_seconds", time.process_time() - start_s, "s", against="training, merging and losses")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    report = Report(__file__, parser=parser)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        measure(report, Path(place))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
