"""A benchmark run once per instruction set that this machine has, each in a process of its own.

    sys.exit(per_set(__file__, parser, measure))

What we are held against is limited to the same instructions: torch, oneDNN, MKL, OpenBLAS and NumPy read such limits
from the environment when they start. Each set has its own file of results, so those of a set that this machine lacks
stay as they were committed, with the processor and the date of their measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness import RESULTS, Report
from spikemesh.kernels import native

INSTRUCTION_SETS: tuple[str, ...] = tuple(native.instruction_sets) if native is not None else ("numpy",)
"""What this machine has, best first."""

LIMITS = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    },
    # The least that each knows; x86-64 itself is a little less.
    "generic": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "OPENBLAS_CORETYPE": "Nehalem",
    },
}
TORCH_SAYS = {"avx2": "AVX2", "generic": "DEFAULT"}
NUMPY_LIMIT = "NPY_DISABLE_CPU_FEATURES"
INSIDE = "SPIKEMESH_BENCHMARK_SET"
"""Names the set in the environment of a process that is limited to it."""


def per_set(script: str, parser: argparse.ArgumentParser, measure: Callable[[Report], None]) -> int:
    """The script's exit code: 0 if all bars hold in every set, or in the one that `--set` names."""
    parser.add_argument("--set", choices=INSTRUCTION_SETS, help="only this one of the machine's instruction sets")
    inside = os.environ.get(INSIDE)
    if inside is not None:
        report = Report(script, parser=parser, instruction_set=inside, limits=limits_of(inside, os.environ.get))
        check_limits(inside)
        measure(report)
        tell_fallen(Path(script).stem, inside, report.lines)
        return report.finish()
    arguments = Report(script, parser=parser, silent=True).arguments
    names = (arguments.set,) if arguments.set else INSTRUCTION_SETS
    codes = []
    for number, name in enumerate(names, 1):
        print(f"{Path(script).stem}: {name}, {number} of {len(names)}", file=sys.stderr, flush=True)
        words = sys.argv[1:] if arguments.set else [*sys.argv[1:], "--set", name]
        codes.append(subprocess.run([sys.executable, script, *words], env=environment_of(name)).returncode)
    tell_kept(Path(script).stem, names)
    return max(codes)


def bar_in(report: Report, bar: float) -> float | None:
    """`bar` where it is claimed: on processors that people have. Plain x86-64 is measured only."""
    return bar if report.instruction_set in ("avx2", "avx512") else None


def environment_of(name: str) -> dict[str, str]:
    """This process's environment, with what limits ours and theirs to a set, and no other limit."""
    known = {*LIMITS["avx2"], NUMPY_LIMIT}
    inherited = {key: value for key, value in os.environ.items() if key not in known}
    limits = LIMITS.get(name, {}) if platform.machine() in ("x86_64", "AMD64") else {}
    features = _numpy_features_beyond(name) if limits else ()
    numpy_limit = {NUMPY_LIMIT: " ".join(features)} if features else {}
    return inherited | limits | numpy_limit | {"SPIKEMESH_KERNELS": name, INSIDE: name}


def _numpy_features_beyond(name: str) -> list[str]:
    """Of those that NumPy chooses from: it refuses to start without what it is built upon."""
    found: list[str] = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return [each for each in found if name == "generic" or each == "X86_V4" or each.startswith("AVX512")]


def limits_of(name: str, look_up: Callable[[str], str | None]) -> dict[str, str]:
    """The limits that a process is under, as results keep them."""
    values = {key: look_up(key) for key in (*LIMITS.get(name, {}), NUMPY_LIMIT)}
    return {key: value for key, value in values.items() if value}


def check_limits(name: str) -> None:
    """`RuntimeError` if torch or our kernels would use other instructions than those of the set."""
    import torch

    from spikemesh.kernels import instruction_set

    used = torch.backends.cpu.get_cpu_capability()
    if instruction_set != name or (platform.machine() == "x86_64" and TORCH_SAYS.get(name, used) != used):
        raise RuntimeError(f"expected kernels and torch limited to {name}, got {instruction_set} and {used}")


def tell_kept(stem: str, measured: Collection[str]) -> None:
    """Name the results of other sets, which stay as they are."""
    for path in sorted(RESULTS.glob(f"{stem}.*.json")):
        document = json.loads(path.read_text())
        if document["set"] not in measured:
            where = f"{document['date']} on {document['hardware']['cpu']}"
            print(f"{stem}: {document['set']} was not measured; its results are those of {where}", file=sys.stderr)


def tell_fallen(stem: str, name: str, measured: Collection[Mapping[str, Any]]) -> None:
    """Name the ratios that are lower than what is committed by more than the spread of their pairs."""
    path = RESULTS / f"{stem}.{name}.json"
    if not path.exists():
        return
    document = json.loads(path.read_text())
    before = {line["name"]: line["value"] for line in document["results"]}
    where = f"{document['date']} on {document['hardware']['cpu']}"
    for line in measured:
        was = before.get(line["name"])
        if was is not None and "spread" in line and not line["unit"].startswith("ms") and line["spread"][1] < was:
            least, most = line["spread"]
            print(f"{line['name']}: {line['value']} ({least} to {most}), it was {was}, {where}", file=sys.stderr)
