"""The real shape: two checkpoints of 12.2 GiB with 835 tensors and their moments, merged, against `cat` and `cp`.

Two baselines: `cat A B > /dev/null; cp A C`, which the bar is held against and which reads A twice, and
`cat B > /dev/null; cp A C`, which reads each once. Before each run the page cache is dropped, where that is allowed.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np

from merging import checkpoints, ours
from merging.bench import Bench, KeptReport, remove
from merging.meter import Run, alternate, drop_caches, measure, median, settle, tell

BASELINES = {
    "cat_and_cp": 'cat "$1" "$2" > /dev/null && cp "$1" "$3"',
    "each_once": 'cat "$2" > /dev/null && cp "$1" "$3"',
}
WINDOW = 1 << 20
NUM_WINDOWS = 64


def measure_shape(report: KeptReport, bench: Bench, *, same_masks: bool = False, scale: int = 1) -> None:
    """`scale` above 1 leaves out the larger tensors, to try the script itself."""
    entries = [entry for entry in checkpoints.real_shape() if entry.num_bytes * scale <= 1_100_000_000]
    size = sum(entry.num_bytes for entry in entries)
    with bench.files("shape", 3 * size + (4 << 30)) as folder:
        for leftover in folder.glob("out*"):
            remove(leftover)
        masks = (1, 1) if same_masks else (1, 2)
        inputs = []
        for name, values, mask in zip("ab", (1, 2), masks, strict=True):
            tell(f"{name}: {size / 1e9:.1f} GB")
            path = folder / f"{name}-{mask}-{len(entries)}.safetensors"
            inputs.append(checkpoints.write(path, entries, values=values, mask=mask))
        _facts(report, entries, inputs, same_masks)
        _measure(report, bench, inputs, folder / "out.safetensors")


def _facts(report: KeptReport, entries: list[checkpoints.Entry], inputs: list[Path], same_masks: bool) -> None:
    parameters = sum(entry.num_values for entry in entries if entry.kind == "weight")
    against = (
        f"{'the same' if same_masks else 'different'} masks; {parameters / 1e9:.3f}e9 parameters, two moments each"
    )
    report.fact("shape.input", inputs[0].stat().st_size, "bytes, each of two", against=against)
    report.fact("shape.tensors", len(entries), "tensors", against="835 and the moments of 608 of them")
    report.fact("shape.zeros", _zeros(inputs[0]), "fraction", against="of the first input, sampled")


def _measure(report: KeptReport, bench: Bench, inputs: list[Path], out: Path) -> None:
    synced_s: dict[str, list[float]] = {name: [] for name in (*BASELINES, "ours")}
    cold = [False]

    def prepare() -> None:
        remove(out)
        cold[0] = drop_caches()
        settle(1 << 40)

    def then_sync(name: str, run: Run) -> Run:
        synced_s[name].append(run.wall_s + measure(["sync", out]).wall_s)
        return run

    def baseline(name: str) -> Run:
        return then_sync(name, measure(["sh", "-c", BASELINES[name], "sh", *inputs, out], limit_s=1800))

    runs = alternate(
        {
            "cat_and_cp": lambda: baseline("cat_and_cp"),
            "each_once": lambda: baseline("each_once"),
            "ours": lambda: then_sync("ours", ours.merge(inputs, out, limit_s=3600)),
        },
        bench.rounds,
        prepare,
    )
    costs = {name: median(of_one) for name, of_one in runs.items()}
    cache = "files not in the page cache" if cold[0] else "page cache as the run before left it"
    against = f"median of {bench.rounds}, in turn; {cache}"
    for name, run in costs.items():
        report.costs(f"shape.{name}", run, against)
        report.fact(f"shape.{name}.synced", statistics.median(synced_s[name]), "s", against="and `sync` of the output")
    _bars(report, costs, {name: statistics.median(times) for name, times in synced_s.items()})
    _check(report, inputs, out)


def _bars(report: KeptReport, costs: dict[str, Run], synced_s: dict[str, float]) -> None:
    our, cat_and_cp, once = costs["ours"], costs["cat_and_cp"], costs["each_once"]
    command = "`cat A B > /dev/null; cp A C`"
    report.at_most("shape.times_cat_and_cp", our.wall_s / cat_and_cp.wall_s, "ratio of wall", bar=1.25, against=command)
    ratio = synced_s["ours"] / synced_s["cat_and_cp"]
    report.fact("shape.times_cat_and_cp_synced", ratio, "ratio of wall", against="both with `sync` of the output")
    command = "`cat B > /dev/null; cp A C`"
    report.fact("shape.times_each_once", our.wall_s / once.wall_s, "ratio of wall", against=command)
    report.at_most(
        "shape.ours.peak_memory", our.peak_bytes, "bytes, private", bar=1e9, against="13.07e9 bytes an input"
    )
    report.fact("shape.ours.cores", our.cpu_s / our.wall_s, "CPU-s per s", against="all cores, user and system")


def _check(report: KeptReport, inputs: list[Path], out: Path) -> None:
    """Windows of the merged file against NumPy's wide floats, and then all of it with `spikemesh verify`."""
    tell("checking")
    windows, different = _different(inputs, out)
    against = f"{windows} values, drawn from all tensors, against an active mean in NumPy's widest float"
    report.at_most("shape.different", different, "values", bar=0, against=against)
    run = ours.verify(inputs, out, limit_s=3600)
    report.at_most("shape.verify.failed", int(run.error is not None), "runs", bar=0, against=run.error or "exit code 0")
    report.costs("shape.verify", run, "`spikemesh verify OUT A B`, once")


def _different(inputs: list[Path], out: Path) -> tuple[int, int]:
    """How many values were compared and how many of them are not the active mean, bit for bit."""
    layouts = [checkpoints.layout(path) for path in (*inputs, out)]
    names = sorted(layouts[0])
    if any(sorted(found) != names for found in layouts):
        raise RuntimeError("the merged file has other tensors than its inputs")
    rng = np.random.default_rng(3)
    large = [name for name in names if layouts[0][name][0] == "F32"]
    compared = different = 0
    for name in rng.choice(large, NUM_WINDOWS, replace=False):
        first, *_ = layouts[0][name][2:]
        count = (layouts[0][name][3] - first) // 4
        start = int(rng.integers(max(1, count - WINDOW)))
        take = min(count, WINDOW)
        a, b, merged = (
            np.fromfile(path, np.float32, take, offset=found[name][2] + 4 * start)
            for path, found in zip((*inputs, out), layouts, strict=True)
        )
        wide = (a.astype(np.longdouble) + b) / np.maximum(1, (a != 0).astype(int) + (b != 0))
        compared += take
        different += int(np.count_nonzero(wide.astype(np.float32).view(np.uint32) != merged.view(np.uint32)))
    return compared, different


def _zeros(path: Path) -> float:
    """Each 97th page of a file, as fp32."""
    values = np.memmap(path, np.float32, "r", shape=(path.stat().st_size // 4,))
    pages = [values[start : start + 1024] for start in range(0, len(values) - 1024, 97 * 1024)]
    return float(np.mean([np.count_nonzero(page == 0) for page in pages])) / 1024
