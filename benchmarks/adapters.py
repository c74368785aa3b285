"""Adapters exactly: 50 of rank 16 on a model of 1.1 billion parameters in bf16, in and out again.

    python benchmarks/adapters.py --commit

Merged with --keep-remainder; 17 at random taken out by the remainder, against a fresh merge of the other 33; all taken
out, against the base; both ways timed, and memory measured. Beside it what reading and writing the base once takes, by
cp, and PEFT on a small Llama: how much of the base its merge and unmerge give back, and logits in float32.
--size small makes everything smaller, to try the script; --only ours leaves PEFT out.
"""

from __future__ import annotations

import argparse
import filecmp
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from environments import ROOT, environment
from harness import Report
from merging import adapter_files
from merging.meter import Run, measure, read_through, tell, told
from spikemesh.checkpoint import open_checkpoint

PEFT = ("peft==0.21.2", "transformers==5.24.0")
PEER = Path(__file__).parent / "merging" / "peer_peft.py"
NUM_PEFT_ADAPTERS = 8
SIZES = {
    "1b": ((22, 2048, 5632, 32000), 50, 17),
    "100m": ((8, 1024, 2816, 4000), 50, 17),
    "small": ((2, 64, 176, 100), 6, 2),
}
PEAK_BYTES = 200_000_000


def spikemesh(folder: Path, *words: str | Path) -> Run:
    command = [sys.executable, "-m", "spikemesh", *words, "--json", "--force"]
    run = measure(command, environment={"SPIKEMESH_CACHE": str(folder / "cache")})
    tell(f"{words[0]}: {run.error or f'{run.wall_s:.1f} s, {run.peak_bytes / 1e6:.0f} MB'}")
    told(run)
    return run


def same_tensors(one: Path, other: Path) -> bool:
    """Whether two checkpoints have the same tensors, bit for bit."""
    a, b = open_checkpoint(one), open_checkpoint(other)
    if a.tensors != b.tensors:
        return False
    for name, tensor in a.tensors.items():
        for start in range(0, tensor.size_bytes, 1 << 24):
            size = min(1 << 24, tensor.size_bytes - start)
            mine, theirs = bytearray(size), bytearray(size)
            tensor.read(start, memoryview(mine))
            b.tensors[name].read(start, memoryview(theirs))
            if mine != theirs:
                return False
    return True


def measure_ours(report: Report, folder: Path, size: str) -> None:
    shape, count, num_removed = SIZES[size]
    tensors = adapter_files.shape(*shape)
    base, out, fresh, back = (folder / f"{name}.safetensors" for name in ("base", "all", "fresh", "back"))
    adapters = [folder / f"adapter{number}" for number in range(count)]
    tell(f"writing a base and {count} adapters")
    adapter_files.write_base(base, tensors)
    for number, adapter in enumerate(adapters):
        adapter_files.write_adapter(adapter, tensors, number)
    num_parameters = base.stat().st_size // 2
    report.fact("adapters.parameters", num_parameters, "parameters", against=f"{count} adapters of rank 16")
    removed = random.Random(0).sample(adapters, num_removed)
    kept = [adapter for adapter in adapters if adapter not in removed]

    read_through(base, *(adapter / "adapter_model.safetensors" for adapter in adapters))
    copy = measure(["cp", base, folder / "copy"])
    (folder / "copy").unlink()
    plain = spikemesh(folder, "merge", *adapters, "--base", base, "-o", out)
    merged = spikemesh(folder, "merge", *adapters, "--base", base, "-o", out, "--keep-remainder")
    facts = told(merged)
    spikemesh(folder, "merge", *kept, "--base", base, "-o", fresh)
    sources = spikemesh(folder, "unmerge", out, *removed, "--base", base, "-o", back)
    equal = filecmp.cmp(back, fresh, shallow=False)
    report.at_least("adapters.sources.equal", float(equal), "1 is equal", bar=1, against="a fresh merge")
    remainder = Path(facts["remainder"])
    taken = spikemesh(folder, "unmerge", out, *removed, "--remainder", remainder, "-o", back)
    equal = filecmp.cmp(back, fresh, shallow=False)
    report.at_least("adapters.remainder.equal", float(equal), "1 is equal", bar=1, against="a fresh merge")
    fresh.unlink()
    emptied = spikemesh(folder, "unmerge", out, *adapters, "--remainder", remainder, "-o", back)
    equal = same_tensors(back, base)
    report.at_least("adapters.base.equal", float(equal), "1 is equal", bar=1, against="the base")

    report.fact("adapters.cp", copy.wall_s, "seconds", against="the base read and written once")
    runs = {"merge": plain, "keep_remainder": merged, "sources": sources, "remainder": taken, "all": emptied}
    for name, run in runs.items():
        report.fact(f"adapters.{name}.seconds", run.wall_s, "seconds", against=f"cp: {copy.wall_s:.2f}")
        report.at_most(f"adapters.{name}.peak", run.peak_bytes, "bytes", bar=PEAK_BYTES, against="private memory")
    factors = sum((adapter / "adapter_model.safetensors").stat().st_size for adapter in adapters)
    kept_bytes = facts["remainder_bytes"]
    lost = (kept_bytes - factors) * 8 / num_parameters
    report.fact("adapters.remainder.bytes", kept_bytes, "bytes", against=f"base: {base.stat().st_size}")
    report.fact("adapters.remainder.lost", lost, "bits per parameter", against="beside the adapters")
    report.fact("adapters.wide", facts["num_wide"], "by integers", against=f"of {facts['num_elements']} elements")


def measure_peft(report: Report, folder: Path, place: Path) -> None:
    python = environment(place, packages=PEFT) / "python"
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}

    def peft(task: str) -> Run:
        return measure([python, PEER, task, folder, str(NUM_PEFT_ADAPTERS)], environment=offline)

    made = peft("make")
    if made.error:
        raise RuntimeError(made.error)
    adapters: Sequence[Path] = [folder / f"adapter{number}" for number in range(NUM_PEFT_ADAPTERS)]
    spikemesh(folder, "merge", *adapters, "--base", folder / "base32", "-o", folder / "merged32")
    spikemesh(folder, "merge", *adapters, "--base", folder / "base", "-o", folder / "merged", "--keep-remainder")
    spikemesh(folder, "unmerge", folder / "merged", *adapters, "-o", folder / "back")
    spikemesh(folder, "merge", *adapters, "-o", folder / "stacked")
    found = told(peft("compare"))
    against = f"largest logit {found['largest_logit']:.3f}; {NUM_PEFT_ADAPTERS} adapters on a Llama in float32"
    report.fact("peft.logits.ours", found["ours_from_adapters"], "our merge less adapters apart", against=against)
    report.fact(
        "peft.logits.theirs", found["theirs_from_adapters"], "PEFT's merge less adapters apart", against=against
    )
    stacked = found["stacked_from_adapters"]
    report.fact("peft.logits.stacked", stacked, "adapters as one less adapters apart", against=against)
    report.fact("peft.logits.between", found["ours_from_theirs"], "our merge less PEFT's", against=against)
    report.fact(
        "peft.came_back", found["came_back"], "of the base, by PEFT's merge and unmerge in bf16", against="ours: 1"
    )
    equal = same_tensors(folder / "back", folder / "base")
    report.at_least("peft.ours_came_back", float(equal), "1 is all of it", bar=1, against="by our merge and unmerge")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1b", help="of the model (default 1b)")
    parser.add_argument("--only", choices=("ours", "peft"), help="one of the two parts")
    parser.add_argument("--work-dir", type=Path, default=ROOT / "build" / "adapters", help="default build/adapters")
    report = Report(__file__, parser=parser)
    place = report.arguments.work_dir.resolve()
    for part in ("ours", "peft"):
        if report.arguments.only in (None, part):
            folder = place / part
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                if part == "ours":
                    measure_ours(report, folder, report.arguments.size)
                else:
                    measure_peft(report, folder, place / "environment")
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
