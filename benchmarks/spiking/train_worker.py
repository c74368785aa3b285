"""A volunteer that trains step by step: `train_worker.py START sparse|dense THREADS`.

START is a folder with a run's start, see `train_step`. `dense` multiplies dense weights with masks; with
SPIKEMESH_KERNELS=numpy its neurons are loops in torch. Each step tells its loss; the first line, what it keeps.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import torch
from answering import answer
from safetensors.numpy import load_file

from spikemesh.allocator import keep_freed_memory
from spikemesh.snn import ModelConfig, SparseLinear, model_from_tensors
from spikemesh.train import Recipe, batch, make_optimiser, train_step

PEAK_UNIT_BYTES = 1024 if sys.platform == "linux" else 1


def main() -> None:
    place, kind, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(threads)
    keep_freed_memory()
    settings = json.loads((place / "settings.json").read_text())
    config, recipe = ModelConfig.from_dict(settings["model"]), Recipe.from_dict(settings["recipe"])
    tensors = load_file(place / "start.safetensors")
    text = tensors.pop("text")
    model = model_from_tensors(config, tensors, sparse=kind == "sparse")
    optimiser, steps = make_optimiser(model, recipe), iter(range(recipe.num_steps))

    def step() -> dict[str, float]:
        number = next(steps)
        windows = batch(text, seed=1, step=number, batch_size=recipe.batch_size, num_tokens=recipe.num_tokens)
        result = train_step(
            model, optimiser, torch.from_numpy(windows), recipe.rate_at(number / recipe.num_steps), recipe
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK_UNIT_BYTES
        return {"loss": result.loss, "peak_bytes": peak}

    weights = sum(values.numel() * values.element_size() for values in model.parameters())
    layers = [layer for layer in model.modules() if isinstance(layer, SparseLinear)]
    pattern_bytes = sum(layer.pattern.num_bytes for layer in layers)
    answer(step, {"weight_bytes": weights, "pattern_bytes": pattern_bytes}, "cpu" if threads == 1 else "wall")


if __name__ == "__main__":
    main()
