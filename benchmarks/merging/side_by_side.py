"""Side by side with the peers, as whole processes: pairs of 400 MB and 3 GB, 60 tensors, different masks.

mergekit's `ties` with an all-zero base and density 1 is its sparse union, nearest to what we do. Files are in the page
cache before each run.
"""

from __future__ import annotations

from pathlib import Path

from merging import checkpoints, ours
from merging.bench import Bench, KeptReport, remove
from merging.meter import alternate, median, read_through, settle

SIZES = {"400MB": 400_000_000, "3GB": 3_000_000_000}
BARS = {"crdt_merge": 5, "crdt_merge_crdt": 5, "mergekit_linear": 5, "mergekit_ties": 10}
LIMIT_S = 300


def measure_side_by_side(report: KeptReport, bench: Bench, *, scale: int = 1) -> None:
    bench.peers.install()
    for name, size in SIZES.items():
        with bench.files(f"side-{name}", 6 * size // scale + (1 << 30)) as folder:
            entries = checkpoints.layers(size // scale)
            a, b = (checkpoints.write(folder / f"{n}.safetensors", entries, values=n, mask=n) for n in (1, 2))
            zero = checkpoints.write(folder / "zero.safetensors", entries, values=0, mask=None)
            _measure(report, bench, name, [a, b], zero)


def _measure(report: KeptReport, bench: Bench, size: str, pair: list[Path], zero: Path) -> None:
    out = zero.with_name("out.safetensors")
    peers = bench.peers

    def prepare() -> None:
        remove(out)
        read_through(*pair, zero)
        settle(8 * pair[0].stat().st_size)

    work = {
        "ours": lambda: ours.merge(pair, out),
        "crdt_merge": lambda: peers.crdt_merge(pair, out, limit_s=LIMIT_S),
        "crdt_merge_crdt": lambda: peers.crdt_merge(pair, out, crdt=True, limit_s=LIMIT_S),
        "mergekit_linear": lambda: peers.mergekit(pair, out, limit_s=LIMIT_S),
        "mergekit_ties": lambda: peers.mergekit(pair, out, base=zero, limit_s=LIMIT_S),
    }
    runs = alternate(work, bench.rounds, prepare, may_fail=BARS)
    costs = {name: median(of_one) for name, of_one in runs.items()}
    against = f"whole process; median of {bench.rounds}, in turn; files in the page cache"
    for name, run in costs.items():
        report.costs(f"side.{size}.{name}", run, against)
    our = costs.pop("ours")
    for name, run in costs.items():
        if not run.error:
            ratio, against = run.wall_s / our.wall_s, f"{run.wall_s:.3g} s and {our.wall_s:.3g} s"
            report.at_least(f"side.{size}.faster_than.{name}", ratio, "times", bar=BARS[name], against=against)
