"""Imports left out on both sides: mergekit's in-memory API and `spikemesh.merge`, on the 400 MB pair.

Each is timed inside a fresh process, after its imports and a first merge of a tiny pair. Ours reads, checks, merges,
hashes and writes. Theirs, which neither checks nor hashes, is timed twice: for reading and merging only, with nothing
written (load_file and merge_state_dicts), and for the same job as ours (then save_file). The bars hold against both.
"""

from __future__ import annotations

import statistics

from merging import checkpoints, ours
from merging.bench import Bench, KeptReport, remove
from merging.meter import alternate, read_through, settle, told


def measure_imports(report: KeptReport, bench: Bench, *, scale: int = 1) -> None:
    bench.peers.install()
    with bench.files("imports", 2_500_000_000 // scale) as folder:
        entries, few = checkpoints.layers(400_000_000 // scale), checkpoints.layers(100_000, 2)
        pair = [checkpoints.write(folder / f"{n}.safetensors", entries, values=n, mask=n) for n in (1, 2)]
        tiny = [checkpoints.write(folder / f"tiny-{n}.safetensors", few, values=n, mask=n) for n in (1, 2)]
        out = folder / "out.safetensors"

        def prepare() -> None:
            remove(out)
            read_through(*pair, *tiny)
            settle(3 << 30)

        work = {
            "ours": lambda: ours.in_process(pair, out, tiny),
            "mergekit": lambda: bench.peers.mergekit_in_memory(pair, out, tiny),
        }
        runs = alternate(work, bench.rounds, prepare)
    laps = {name: [told(run) for run in of_one] for name, of_one in runs.items()}
    cost = {
        (name, lap, key): statistics.median(run[lap][key] for run in laps[name])
        for name, lap in (("ours", "written"), ("mergekit", "merged"), ("mergekit", "written"))
        for key in ("wall_s", "cpu_s")
    }
    against = f"median of {bench.rounds} processes, in turn; files in the page cache"
    for (name, lap, key), value in cost.items():
        report.fact(f"imports.{name}.{lap}.{key[:-2]}", value, "s" if key == "wall_s" else "CPU-s", against=against)
    for key in ("wall_s", "cpu_s"):
        our, full, less = (
            cost[name, lap, key] for name, lap in (("ours", "written"), ("mergekit", "written"), ("mergekit", "merged"))
        )
        against = f"mergekit reads, merges, writes: {full:.3g} s; we: {our:.3g} s"
        report.at_most(f"imports.times_mergekit.{key[:-2]}", our / full, "ratio", bar=1, against=against)
        against = f"mergekit reads, merges, writes nothing: {less:.3g} s; we write too: {our:.3g} s"
        report.at_most(f"imports.times_mergekit_unwritten.{key[:-2]}", our / less, "ratio", bar=1, against=against)
