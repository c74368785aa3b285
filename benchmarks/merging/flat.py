"""Flat memory: the peak of private memory with two and with eight inputs of 1 GB."""

from __future__ import annotations

from merging import checkpoints, ours
from merging.bench import Bench, KeptReport, remove
from merging.meter import alternate, median, read_through, settle

SMALL_CONSTANT = 32e6
INPUT_BYTES = 1_000_000_000


def measure_flat(report: KeptReport, bench: Bench, *, scale: int = 1) -> None:
    entries = checkpoints.layers(INPUT_BYTES // scale)
    with bench.files("flat", 10 * INPUT_BYTES // scale) as folder:
        paths = [checkpoints.write(folder / f"{n}.safetensors", entries, values=n, mask=n) for n in range(8)]
        out = folder / "out.safetensors"

        def prepare() -> None:
            remove(out)
            read_through(*paths)
            settle(4 << 30)

        work = {f"inputs_{n}": lambda n=n: ours.merge(paths[:n], out) for n in (2, 8)}
        costs = {name: median(runs) for name, runs in alternate(work, bench.rounds, prepare).items()}
    against = f"inputs of {INPUT_BYTES // scale / 1e9:g} GB, in the page cache; median of {bench.rounds}"
    for name, run in costs.items():
        report.costs(f"flat.{name}", run, against)
    two, eight = costs["inputs_2"].peak_bytes, costs["inputs_8"].peak_bytes
    bar = 1.25 * two + SMALL_CONSTANT
    against = f"1.25 times the peak with 2 inputs, {two / 1e6:.0f} MB, and {SMALL_CONSTANT / 1e6:.0f} MB"
    report.at_most("flat.peak_with_8_inputs", eight, "bytes, private", bar=bar, against=against)
