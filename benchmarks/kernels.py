"""The kernels of training, measured on one core: neurons against other spiking libraries, synapses against torch.

  neurons   leaky integrate-and-fire, forward and backward, T = 8, batch 4,096, width 512: SpikingJelly 2.0 (torch
            backend), snnTorch 1.0, norse 1.1, and our own loop in torch
  synapses  a training step of a layer 512 x 2048 with 93 % zeros, 4,096 tokens: dense weights with a mask in torch

Each program runs in a process of its own and all take their steps in turn; ratios are those of medians. The libraries
live in a virtual environment under --work-dir, made on first use.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from environments import ROOT, environment
from harness import Report
from spiking.rounds import Worker, in_turn, medians

SCRIPTS = Path(__file__).parent / "spiking"
LOOP = {"SPIKEMESH_KERNELS": "numpy"}
PACKAGES = ("spikingjelly==2.0.0", "snntorch==1.0.0", "norse==1.1.0", "nir==1.0.8", "nirtorch==2.6")
NEEDS = ("numpy", "h5py", "loguru")
"""What the packages import here; they ask for more, such as torchvision."""
PEERS = {"spikingjelly": ("SpikingJelly 2.0", 8.0), "snntorch": ("snnTorch 1.0", 10.0), "norse": ("norse 1.1", 10.0)}


def measure_neurons(report: Report, place: Path, rounds: int) -> None:
    script = SCRIPTS / "lif_worker.py"
    python = environment(place, packages=NEEDS, alone=PACKAGES) / "python"
    makers = {
        "kernel": partial(Worker, [sys.executable, script, "spikemesh"]),
        "loop": partial(Worker, [sys.executable, script, "spikemesh"], LOOP),
        **{name: partial(Worker, [python, script, name], {"PYTHONPATH": ""}) for name in PEERS},
    }
    answers = in_turn(makers, rounds)
    check_alike({name: given[0]["rate"] for name, given in answers.items()})
    seconds = medians(answers)
    for name, value in seconds.items():
        report.fact(f"neurons.{name}", 1000 * value, "ms", against="forward and backward")
    report.fact("neurons.over_loop", seconds["loop"] / seconds["kernel"], "times faster", against="our loop in torch")
    for name, (title, bar) in PEERS.items():
        report.at_least(
            f"neurons.over_{name}", seconds[name] / seconds["kernel"], "times faster", bar=bar, against=title
        )


def check_alike(rates: Mapping[str, float]) -> None:
    """Neurons that fire differently do different work; a spike on the threshold may fall on either side."""
    if max(rates.values()) - min(rates.values()) > 1e-4:
        raise RuntimeError(f"expected equal rates of spikes, got {rates}; the parameters in lif_worker.py differ")


def measure_synapses(report: Report, rounds: int) -> None:
    script = SCRIPTS / "layer_worker.py"
    makers = {how: partial(Worker, [sys.executable, script, how]) for how in ("masked", "synapses", "moved")}
    seconds = medians(in_turn(makers, rounds))
    for name, value in seconds.items():
        report.fact(f"synapses.{name}", 1000 * value, "ms", against="forward, backward, AdamW")
    against = "dense weights with a mask in torch"
    ratio = seconds["masked"] / seconds["synapses"]
    report.at_least("synapses.over_masked", ratio, "times faster", bar=4.0, against=against)
    moved = seconds["masked"] / seconds["moved"]
    report.fact(
        "synapses.moved_over_masked", moved, "times faster", against=f"{against}; layout changed before and after"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("neurons", "synapses"))
    parser.add_argument("--rounds", type=int, default=15, help="how often each step is timed (default 15)")
    parser.add_argument("--work-dir", type=Path, default=ROOT / "build" / "spiking", help="default build/spiking")
    report = Report(__file__, parser=parser)
    arguments = report.arguments
    if arguments.only != "synapses":
        measure_neurons(report, arguments.work_dir.resolve(), arguments.rounds)
    if arguments.only != "neurons":
        measure_synapses(report, arguments.rounds)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
