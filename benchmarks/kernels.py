"""The kernels, measured on one core: against other spiking libraries, torch, and plain x86-64.

  neurons   leaky integrate-and-fire, forward and backward, T = 8, batch 4,096, width 512: SpikingJelly 2.0 (torch
            backend), snnTorch 1.0, norse 1.1, and our own loop in torch; and as a share of the bandwidth with which
            this core copies or adds arrays of that size
  synapses  a training step of a layer 512 x 2048 with 93 % zeros, 4,096 tokens: dense weights with a mask in torch
  alone     each kernel at shapes of the demo, against the same one compiled for plain x86-64; also those of a delta and
            of a merge

Each program runs in a process of its own and all take their steps in turn; ratios are medians of these pairs, and
printed with the least and the largest. All of it once per instruction set that the machine has, others limited alike
(`sets`). The libraries live in a virtual environment under --work-dir, made on first use.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from environments import ROOT, environment
from harness import Report, Spread
from sets import bar_in, per_set
from spiking.rounds import Worker, in_turn, seconds_of

SCRIPTS = Path(__file__).parent / "spiking"
LOOP = {"SPIKEMESH_KERNELS": "numpy"}
PLAIN = {"SPIKEMESH_KERNELS": "generic"}
PACKAGES = ("spikingjelly==2.0.0", "snntorch==1.0.0", "norse==1.1.0", "nir==1.0.8", "nirtorch==2.6")
NEEDS = ("numpy", "h5py", "loguru")
"""What the packages import here; they ask for more, such as torchvision."""
PEERS = {"spikingjelly": ("SpikingJelly 2.0", 8.0), "snntorch": ("snnTorch 1.0", 10.0), "norse": ("norse 1.1", 10.0)}
NEURON_BYTES = 5 * 4 * 8 * 4096 * 512
"""Forward reads currents and writes spikes; backward reads currents and a gradient and writes one."""
ENOUGH_BANDWIDTH = 0.8
"""Who is this near to what memory can do cannot be ten times faster than others."""


def measure_neurons(report: Report, place: Path, rounds: int) -> None:
    script, bandwidth = SCRIPTS / "lif_worker.py", SCRIPTS / "bandwidth_worker.py"
    python = environment(place, packages=NEEDS, alone=PACKAGES) / "python"
    makers = {
        "kernel": partial(Worker, [sys.executable, script, "spikemesh"]),
        "copy": partial(Worker, [sys.executable, bandwidth, "copy"]),
        "add": partial(Worker, [sys.executable, bandwidth, "add"]),
        "loop": partial(Worker, [sys.executable, script, "spikemesh"], LOOP),
        **{name: partial(Worker, [python, script, name], {"PYTHONPATH": ""}) for name in PEERS},
    }
    answers = in_turn(makers, rounds)
    check_alike({name: given[0]["rate"] for name, given in answers.items() if "rate" in given[0]})
    seconds = seconds_of(answers)
    share = report_bandwidth(report, seconds, {name: answers[name][0]["bytes"] for name in ("copy", "add")})
    for name in ("kernel", "loop", *PEERS):
        report_ms(report, f"neurons.{name}", seconds[name], "forward and backward")
    over_loop = Spread.of_ratios(seconds["loop"], seconds["kernel"])
    report.fact("neurons.over_loop", over_loop, "times faster", against="our loop in torch")
    for name, (title, bar) in PEERS.items():
        report.at_least(
            f"neurons.over_{name}",
            Spread.of_ratios(seconds[name], seconds["kernel"]),
            "times faster",
            bar=bar_in(report, bar),
            against=f"{title}; or {ENOUGH_BANDWIDTH:.0%} of memory bandwidth",
            unless=share.median >= ENOUGH_BANDWIDTH,
        )


def report_bandwidth(report: Report, seconds: Mapping[str, Sequence[float]], num_bytes: Mapping[str, int]) -> Spread:
    """Returns our share of the faster of two plain loops."""
    for name, count in num_bytes.items():
        rate = Spread.of([count / each / 1e9 for each in seconds[name]])
        report.fact(f"bandwidth.{name}", rate, "GB/s", against=f"one core; {count / 1e6:.0f} MB read and written")
    best = max(num_bytes, key=lambda name: num_bytes[name] / statistics.median(seconds[name]))
    factor = NEURON_BYTES / num_bytes[best]
    share = Spread.of_ratios([factor * each for each in seconds[best]], seconds["kernel"])
    against = f"{best}; {NEURON_BYTES / 1e6:.0f} MB counted: currents twice, spikes, two gradients"
    report.fact("neurons.of_bandwidth", share, "of memory bandwidth", against=against)
    return share


def report_ms(report: Report, name: str, seconds: Sequence[float], against: str) -> None:
    report.fact(name, Spread.of([1000 * each for each in seconds]), "ms", against=against)


def check_alike(rates: Mapping[str, float]) -> None:
    """Neurons that fire differently do different work; a spike on the threshold may fall on either side."""
    if max(rates.values()) - min(rates.values()) > 1e-4:
        raise RuntimeError(f"expected equal rates of spikes, got {rates}; the parameters in lif_worker.py differ")


def measure_synapses(report: Report, rounds: int) -> None:
    script = SCRIPTS / "layer_worker.py"
    makers = {how: partial(Worker, [sys.executable, script, how]) for how in ("masked", "synapses", "moved")}
    seconds = seconds_of(in_turn(makers, rounds))
    for name, values in seconds.items():
        report_ms(report, f"synapses.{name}", values, "forward, backward, AdamW")
    against = "dense weights with a mask in torch"
    ratio = Spread.of_ratios(seconds["masked"], seconds["synapses"])
    report.at_least("synapses.over_masked", ratio, "times faster", bar=bar_in(report, 4.0), against=against)
    moved = Spread.of_ratios(seconds["masked"], seconds["moved"])
    against = f"{against}; layout changed before and after"
    report.fact("synapses.moved_over_masked", moved, "times faster", against=against)


def measure_alone(report: Report, rounds: int) -> None:
    """Instructions of its own must be worth their while, kernel by kernel; a difference within the spread holds."""
    command = [sys.executable, SCRIPTS / "kernel_worker.py"]
    makers = {"own": partial(Worker, command), "generic": partial(Worker, command, PLAIN)}
    if report.instruction_set == "generic":
        del makers["generic"]
    answers = in_turn(makers, rounds)
    for kernel, shape in answers["own"][0]["shapes"].items():
        seconds = {
            name: [answer["kernels"][kernel] for answer in given if answer["counts"]] for name, given in answers.items()
        }
        report_ms(report, f"alone.{kernel}", seconds["own"], shape)
        if "generic" in seconds:
            ratio = Spread.of_ratios(seconds["generic"], seconds["own"])
            against = f"the same for plain x86-64; {shape}"
            name = f"alone.{kernel}.over_generic"
            within = ratio.most >= 1.0
            report.at_least(name, ratio, "times faster", bar=bar_in(report, 1.0), against=against, unless=within)


PARTS = ("neurons", "synapses", "alone")


def measure(report: Report) -> None:
    arguments = report.arguments
    parts = (arguments.only,) if arguments.only else PARTS
    if "neurons" in parts:
        measure_neurons(report, arguments.work_dir.resolve(), arguments.rounds)
    if "synapses" in parts:
        measure_synapses(report, arguments.rounds)
    if "alone" in parts:
        measure_alone(report, arguments.rounds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=15, help="how often each step is timed (default 15)")
    parser.add_argument("--work-dir", type=Path, default=ROOT / "build" / "spiking", help="default build/spiking")
    return per_set(__file__, parser, measure)


if __name__ == "__main__":
    sys.exit(main())
