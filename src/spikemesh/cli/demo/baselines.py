"""What the merged model is compared with, from the same start, for the same number of steps, at the same rates.

lone: one volunteer on its shard, as if it had never met the others.
joint: one run on all of the text with as many times the batch as there are volunteers: what a cluster would do.
"""

from __future__ import annotations

import signal
import time
from multiprocessing import get_context
from pathlib import Path

import msgspec

from spikemesh.allocator import keep_freed_memory
from spikemesh.cli.folder import RunFolder
from spikemesh.codec import decode_genesis, encode_genesis, read_tensor_file
from spikemesh.files import write_file_atomic
from spikemesh.store import Store

BASELINE_SEED = 7_777
TIMEOUT_S = 3600.0
"""A worker that the system kills never answers."""


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
    path = place / "baselines.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=Baselines)
    start_s, genesis = time.monotonic(), founder.genesis()
    with Store.open(founder.path, create=False) as store:
        start = store.blobs.get(genesis.init_hash)
    run = encode_genesis(genesis), start
    with get_context("spawn").Pool(2, initializer=_leave_ctrl_c_to_the_parent) as pool:
        joint = pool.apply_async(_train, (*run, data, seed, (0, 1), num_shards, 2))
        lone = pool.apply_async(_train, (*run, data, seed, (0, num_shards), 1, 1))
        result = Baselines(lone=lone.get(TIMEOUT_S), joint=joint.get(TIMEOUT_S), seconds=time.monotonic() - start_s)
    write_file_atomic(path, msgspec.json.encode(result))
    return result


def _leave_ctrl_c_to_the_parent() -> None:
    """It ends the pool, and so this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _train(
    genesis_bytes: bytes,
    start: bytes,
    data: Path | None,
    seed: int,
    shard: tuple[int, int],
    batch_factor: int,
    threads: int,
) -> Baseline:
    """One plain training run: the inner loop and nothing else."""
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
    seconds = time.monotonic() - start_s
    return Baseline(loss=held_out_loss(model, corpus), num_tokens=num_tokens, seconds=seconds)
