"""The rules that need all inputs at once, against the active mean: four inputs of 400 MB, whole processes."""

from __future__ import annotations

from merging import checkpoints, ours
from merging.bench import Bench, KeptReport, remove
from merging.meter import alternate, median, read_through, settle

RULES = ("active-mean", "sign-elect", "trimmed-mean")


def measure_rules(report: KeptReport, bench: Bench, *, scale: int = 1) -> None:
    with bench.files("rules", 2_500_000_000 // scale) as folder:
        entries = checkpoints.layers(400_000_000 // scale)
        paths = [checkpoints.write(folder / f"{n}.safetensors", entries, values=n, mask=n) for n in range(4)]
        out = folder / "out.safetensors"

        def prepare() -> None:
            remove(out)
            read_through(*paths)
            settle(3 << 30)

        work = {rule: lambda rule=rule: ours.merge(paths, out, rule=rule) for rule in RULES}
        costs = {rule: median(runs) for rule, runs in alternate(work, bench.rounds, prepare).items()}
    mean = costs["active-mean"]
    for rule, run in costs.items():
        report.costs(f"rules.{rule}", run, f"4 inputs of 400 MB; median of {bench.rounds}, in turn")
    for rule in RULES[1:]:
        ratio, against = costs[rule].wall_s / mean.wall_s, f"the active mean: {mean.wall_s:.3g} s"
        report.at_most(f"rules.{rule}.times_active_mean", ratio, "ratio of wall", bar=2, against=against)
