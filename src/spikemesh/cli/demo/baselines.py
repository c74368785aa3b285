"""What the merged model is compared with, from the same start, for the same number of steps, at the same rates.

lone: one volunteer on its shard, as if it had never met the others.
joint: one run on all of the text with as many times the batch as there are volunteers: what a cluster would do.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, MutableSequence, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from spikemesh.allocator import keep_freed_memory
from spikemesh.cli.folder import RunFolder
from spikemesh.cli.progress import shown_progress
from spikemesh.codec import decode_genesis, encode_genesis, read_tensor_file
from spikemesh.errors import SpikemeshError
from spikemesh.files import write_file_atomic
from spikemesh.progress import Progress
from spikemesh.store import Store

if TYPE_CHECKING:
    from multiprocessing.pool import AsyncResult

Steps: TypeAlias = MutableSequence[int]

BASELINE_SEED = 7_777
POLL_S = 0.5
STALLED_S = 1800.0
"""A worker that the system kills makes no step any more, and never answers."""

_steps: Steps
"""In a worker: how many steps each baseline has taken, told to the process that waits."""


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """Held-out loss in nats per byte, and what it took."""

    loss: float
    num_tokens: int
    seconds: float


class Baselines(msgspec.Struct, frozen=True, kw_only=True):
    lone: Baseline
    joint: Baseline
    seconds: float


def train_baselines(place: Path, founder: RunFolder, data: Path | None, *, seed: int, num_shards: int) -> Baselines:
    """Train both at once, each in its process. The result is kept in `baselines.json` and not trained again."""
    from spikemesh.train import Recipe

    path = place / "baselines.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=Baselines)
    start_s, genesis = time.monotonic(), founder.genesis()
    with Store.open(founder.path, create=False) as store:
        start = store.blobs.get(genesis.init_hash)
    run, num_steps = (encode_genesis(genesis), start), Recipe.from_dict(genesis.recipe).num_steps
    context = get_context("spawn")
    steps = context.Array("q", 2)
    with context.Pool(2, initializer=_start_worker, initargs=(steps,)) as pool, shown_progress() as progress:
        joint = pool.apply_async(_train, (0, *run, data, seed, (0, 1), num_shards, 2))
        lone = pool.apply_async(_train, (1, *run, data, seed, (0, num_shards), 1, 1))
        watch(progress, lambda: min(steps[:]), num_steps, lambda: _wait((joint, lone)))
        result = Baselines(lone=lone.get(), joint=joint.get(), seconds=time.monotonic() - start_s)
    write_file_atomic(path, msgspec.json.encode(result))
    return result


def watch(
    progress: Progress,
    num_done: Callable[[], int],
    num_steps: int,
    wait: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Show the steps of the slower baseline until `wait`, which takes a moment, says that both have answered.

    `SpikemeshError` when nothing moves for half an hour.
    """
    progress.begin("starting the baselines", 0)
    seen, moved_s = 0, clock()
    while not wait():
        if (done := num_done()) > seen:
            if seen == 0:
                progress.begin("training the baselines", num_steps, "steps")
            progress.advance(done - seen)
            seen, moved_s = done, clock()
            if done == num_steps:
                progress.begin("evaluating the baselines", 0)
        elif clock() - moved_s > STALLED_S:
            raise SpikemeshError(
                f"a baseline has not gone on for {STALLED_S / 60:.0f} min, after {seen} of {num_steps} steps: the "
                "system may have ended its process for want of memory. The same command trains both again."
            )


def _wait(results: Sequence[AsyncResult[Baseline]]) -> bool:
    """Whether all are there, or one of them is an error."""
    time.sleep(POLL_S)
    return all(result.ready() for result in results) or any(
        result.ready() and not result.successful() for result in results
    )


def _start_worker(steps: Steps) -> None:
    """Ctrl-C is left to the parent: it ends the pool, and so this process."""
    global _steps
    _steps = steps
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _train(
    number: int,
    genesis_bytes: bytes,
    start: bytes,
    data: Path | None,
    seed: int,
    shard: tuple[int, int],
    batch_factor: int,
    threads: int,
) -> Baseline:
    """One plain training run: the inner loop and nothing else. `number` is its place in `_steps`."""
    import torch

    from spikemesh.cli.model import build_model
    from spikemesh.train import Corpus, Recipe, batch, held_out_loss, make_optimiser, train_step

    torch.set_num_threads(threads)
    keep_freed_memory()
    genesis = decode_genesis(genesis_bytes)
    model = build_model(genesis, read_tensor_file(start))
    recipe, corpus = Recipe.from_dict(genesis.recipe), Corpus.load(data)
    text, optimiser = corpus.shard(*shard), make_optimiser(model, recipe)
    start_s, num_tokens = time.monotonic(), 0
    for step in range(recipe.num_steps):
        windows = batch(
            text,
            seed=BASELINE_SEED + seed,
            step=step,
            batch_size=recipe.batch_size * batch_factor,
            num_tokens=recipe.num_tokens,
        )
        rate = recipe.rate_at(step / recipe.num_steps)
        num_tokens += train_step(model, optimiser, torch.from_numpy(windows), rate, recipe).num_tokens
        _steps[number] = step + 1
    seconds = time.monotonic() - start_s
    return Baseline(loss=held_out_loss(model, corpus), num_tokens=num_tokens, seconds=seconds)
