"""A trained model, exported as a NIR graph, run by SpikingJelly's own importer: are the spikes the same?

SpikingJelly lives in an environment of its own, which this script makes under `build/nir_exchange` on first use. Its
importer takes Linear nodes and LIF nodes whose neurons are all alike, no Delay and no LI, so it gets what the command
`spikemesh export --format nir-core` writes; what it says to `--format nir` is reported as it is. The input currents
are ours, as numbers in a file; it hands back every population's spikes, and late ones go back in.

    python benchmarks/nir_exchange.py --commit
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from environments import ROOT, environment
from harness import Report
from spikemesh.cli.presets import find_preset
from spikemesh.codec import write_tensors
from spikemesh.snn import ModelConfig, SpikeMeter, SpikingLM, dense_tensors, initialise, model_metadata
from spikemesh.snn.config import population_names
from spikemesh.snn.nir_graph import axon_delays
from spikemesh.train import Corpus, batch, make_optimiser, train_step

PLACE = ROOT / "build" / "nir_exchange"
PACKAGES = ("spikingjelly==2.0.0", "nir==1.0.8", "nirtorch==2.6")
"""Without what they ask for beside them: SpikingJelly asks for torchvision and torchaudio, of which there is no build
for this torch without CUDA, and imports neither for this."""
NEEDS = ("numpy", "h5py", "loguru", "scipy", "tqdm", "matplotlib", "packaging", "requests")


def trained(config: ModelConfig, corpus: Corpus, num_steps: int) -> SpikingLM:
    """After some steps every neuron has a leak and a threshold of its own."""
    recipe = replace(find_preset("tiny")[1], num_rounds=num_steps, steps_per_round=1)
    text = corpus.train_text
    model = initialise(config, batch(text, seed=0, step=0, batch_size=16, num_tokens=64)[:, :-1], seed=0)
    optimiser = make_optimiser(model, recipe)
    for step in range(num_steps):
        windows = batch(text, seed=0, step=step, batch_size=recipe.batch_size, num_tokens=recipe.num_tokens)
        train_step(model, optimiser, torch.from_numpy(windows), recipe.rate_at(step / num_steps), recipe)
    return model


def spikes_and_currents(
    model: SpikingLM, tokens: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Of one text, by our torch model: spikes of all populations side by side [L, N], input currents [L, D]."""
    seen: dict[str, npt.NDArray[np.float32]] = {}

    class Noting(SpikeMeter):
        def _noting(self, name: str):  # type: ignore[no-untyped-def]
            def note(_module: object, _inputs: object, outputs: tuple[torch.Tensor, torch.Tensor]) -> None:
                seen[name] = outputs[0][:, 0].numpy()

            return note

    with torch.no_grad(), Noting(model):
        model(torch.from_numpy(tokens)[None])
        currents, _ = model.input_currents(torch.from_numpy(tokens)[:, None], model.initial_state(1).last_tokens)
    return np.concatenate([seen[name] for name in population_names(model.config)], axis=1), currents[:, 0].numpy()


def exported(model: SpikingLM, form: str, folder: Path) -> Path:
    source, out = folder / "model.safetensors", folder / f"{form}.nir"
    source.write_bytes(write_tensors(dense_tensors(model), model_metadata(model.config)))
    command = [sys.executable, "-m", "spikemesh", "export", source, "-o", out, "--format", form]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return out


def run_there(python: Path, graph: Path, **arrays: npt.NDArray[np.generic]) -> dict[str, object]:
    """What SpikingJelly makes of a graph: {"error": ...}, or {"spikes": [L, N]} and how long it took."""
    np.savez(graph.with_suffix(".npz"), **arrays)
    script = [python, ROOT / "benchmarks" / "exchange" / "in_spikingjelly.py", graph, graph.with_suffix(".npz")]
    done = subprocess.run([*map(str, script)], check=True, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": ""})
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--steps", type=int, default=60, help="of training")
    report = Report(__file__, parser=parser)
    python = environment(PLACE, packages=NEEDS, alone=PACKAGES) / "python"
    corpus = Corpus.standard_library()
    torch.set_num_threads(1)
    configs = {
        "tiny": find_preset("tiny")[0],
        "demo": find_preset("demo")[0],
        "deep": ModelConfig(width=24, hidden=40, num_blocks=3, density=0.25),
    }
    with tempfile.TemporaryDirectory() as place:
        for name, config in configs.items():
            model = trained(config, corpus, report.arguments.steps)
            tokens = corpus.held_out_text[: report.arguments.tokens].astype(np.int64)
            expected, currents = spikes_and_currents(model, tokens)
            folder = Path(place, name)
            folder.mkdir()
            start = time.perf_counter()
            sizes = [config.width, config.hidden] * config.num_blocks + [config.width]
            answer = run_there(
                python,
                exported(model, "nir-core", folder),
                currents=currents,
                delays=axon_delays(config) if config.num_axon_delays > 1 else np.zeros(0, np.int64),
                sizes=np.array(sizes),
            )
            report.fact(f"{name}.seconds", time.perf_counter() - start, "s", against="export, import and run")
            if "error" in answer:
                raise SystemExit(f"SpikingJelly refuses the core: {answer['error']}")
            spikes = np.array(answer["spikes"], np.float32)
            different = int((spikes != expected).sum())
            report.fact(
                f"{name}.neurons",
                sum(sizes),
                "neurons",
                against=f"{config.num_blocks} blocks, trained: each neuron has its own leak and threshold",
            )
            report.fact(f"{name}.spikes", float(expected.sum()), "spikes", against=f"in {len(tokens)} tokens")
            report.at_most(f"{name}.different", different, "spikes", bar=0, against="SpikingJelly 2.0 and our model")
            whole = run_there(python, exported(model, "nir", folder), currents=currents)
            report.fact(f"{name}.whole", str(whole.get("error", "taken")), "SpikingJelly", against="--format nir")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
