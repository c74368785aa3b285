"""The correctness table: the laws, and how far the values are from the active mean, for us and for the peers.

Small files with values over many powers of two, subnormal ones, and some that cancel. The reference is the sum in
NumPy's widest float (64 bits of significand on x86) over the number of inputs that hold the synapse.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from merging import checkpoints, ours
from merging.bench import Bench, KeptReport, remove
from merging.meter import Run, tell

SIDE = 256
Tensors = dict[str, npt.NDArray[Any]]
Merge = Callable[[Sequence[Path], Path], Run]


class Tool:
    """One program, as a function from files to a file.

    `bars`: it must hold what is measured; `linear`: it computes the mean over all inputs.
    """

    def __init__(self, name: str, merge: Merge, folder: Path, *, bars: bool = False, linear: bool = False) -> None:
        self.name, self.bars, self.linear = name, bars, linear
        self._merge, self._folder = merge, folder
        self._merged: dict[tuple[Path, ...], Path] = {}

    def __call__(self, *inputs: Path) -> Path:
        """The merged file, made once for the same inputs in the same order. RuntimeError if the program fails."""
        if inputs not in self._merged:
            out = self._folder / f"{self.name}-{len(self._merged)}.safetensors"
            remove(out)
            run = self._merge(inputs, out)
            if run.error:
                raise RuntimeError(run.error)
            self._merged[inputs] = out / "model.safetensors" if out.is_dir() else out
        return self._merged[inputs]


def measure_laws(report: KeptReport, bench: Bench) -> None:
    bench.peers.install()
    with bench.files("laws", 1 << 30) as folder:
        inputs = {name: checkpoints.save(folder / f"{name}.safetensors", _draw(n)) for n, name in enumerate("abc")}
        inputs["d"] = checkpoints.save(folder / "d.safetensors", _draw(0, values=9))
        inputs["copy of a"] = Path(shutil.copyfile(inputs["a"], folder / "copy.safetensors"))
        zero = checkpoints.save(folder / "zero.safetensors", {n: v * 0 for n, v in _draw(0).items()})
        peers = bench.peers
        tools = [
            Tool("spikemesh", lambda paths, out: ours.merge(paths, out, remember=True), folder, bars=True),
            Tool("crdt_merge", peers.crdt_merge, folder, linear=True),
            Tool("crdt_merge_crdt", lambda paths, out: peers.crdt_merge(paths, out, crdt=True), folder, linear=True),
            Tool("mergekit_linear", peers.mergekit, folder, linear=True),
            Tool("mergekit_ties", lambda paths, out: peers.mergekit(paths, out, base=zero), folder),
        ]
        for tool in tools:
            tell(f"laws of {tool.name}")
            _laws(report, tool, inputs)
            _values(report, tool, inputs)


def _laws(report: KeptReport, tool: Tool, inputs: dict[str, Path]) -> None:
    a, b, c, copy = (inputs[name] for name in ("a", "b", "c", "copy of a"))
    laws: dict[str, tuple[str, Callable[[], list[tuple[Path, Path]]]]] = {
        "order": (
            "all orders of A B C",
            lambda: [(tool(a, b, c), tool(*p)) for p in itertools.permutations((a, b, c))],
        ),
        "repeat": ("A A B = A B", lambda: [(tool(a, b), tool(a, a, b))]),
        "copy": ("A, a copy of A, B = A B", lambda: [(tool(a, b), tool(a, copy, b))]),
        "grouping": ("merge(merge(A, B), C) = merge(A, B, C)", lambda: [(tool(a, b, c), tool(tool(a, b), c))]),
    }
    for law, (against, pairs) in laws.items():
        name = f"laws.{tool.name}.{law}"
        try:
            outs = pairs()
        except RuntimeError as error:
            _failed(report, tool, name, error)
            continue
        values = max(_num_different(*pair) for pair in outs)
        _zero(report, tool, f"{name}.different_values", values, "values", against)
        if tool.bars:
            files = sum(one.read_bytes() != other.read_bytes() for one, other in outs)
            report.at_most(f"{name}.different_files", files, "files", bar=0, against=f"{against}, byte for byte")


def _values(report: KeptReport, tool: Tool, inputs: dict[str, Path]) -> None:
    """What a merge does to density and values."""
    read = {name: checkpoints.read(path) for name, path in inputs.items()}
    name = f"laws.{tool.name}"
    try:
        pair, three, equal = (
            checkpoints.read(tool(*(inputs[letter] for letter in letters))) for letters in ("ab", "abc", "ad")
        )
    except RuntimeError as error:
        _failed(report, tool, f"{name}.values", error)
        return
    change = abs(_density(equal) / _density(read["a"]) - 1)
    _zero(report, tool, f"{name}.density_change", change, "of the density", "two inputs with equal masks")
    lost = sum(int(np.count_nonzero((pair[n] == 0) & ((read["a"][n] != 0) != (read["b"][n] != 0)))) for n in pair)
    _zero(report, tool, f"{name}.lost", lost, "values", "held by one input, zero after the merge")
    dilution = max(_dilution(pair[n], read["a"][n], read["b"][n]) for n in pair)
    _zero(report, tool, f"{name}.dilution", dilution, "relative error", "the largest, where one of two inputs holds it")
    mean = {n: _mean([read[letter][n] for letter in "abc"], active=True) for n in three}
    off = float(np.linalg.norm(three["plain"] - mean["plain"]) / np.linalg.norm(mean["plain"]))
    report.fact(f"{name}.off_active_mean", off, "relative error", against="|merged - mean| / |mean|, three inputs")
    if tool.bars:
        error = max(_ulps(three[n], mean[n]) for n in three)
        against = "the active mean of three inputs; the largest error; 0.5 is correct rounding"
        report.at_most(f"{name}.error_active_mean", error, "ulp of fp32", bar=0.5, against=against)
    elif tool.linear:
        error = max(_ulps(three[n], _mean([read[letter][n] for letter in "abc"], active=False)) for n in three)
        against = "the plain mean, which is what it computes; the largest error"
        report.fact(f"{name}.error_plain_mean", error, "ulp of fp32", against=against)


def _draw(mask: int, values: int | None = None) -> Tensors:
    """fp32 tensors of one checkpoint; without `values` the mask's seed is that of the values too."""
    held_rng, rng = np.random.default_rng([1, mask]), np.random.default_rng([2, mask if values is None else values])
    tensors = {}
    for name, exponents in (("plain", (0, 1)), ("wide", (-20, 20)), ("subnormal", (-135, -120))):
        drawn = rng.standard_normal((SIDE, SIDE)) * np.exp2(rng.integers(*exponents, (SIDE, SIDE)))
        tensors[name] = drawn.astype(np.float32)
        tensors[name][tensors[name] == 0] = 1
    # Where two inputs hold one of these, they often cancel to zero.
    tensors["cancelling"] = rng.choice(np.array([-0.5, 0.5, 3.0], np.float32), (SIDE, SIDE))
    return {name: values * (held_rng.random(values.shape) >= 0.7) for name, values in tensors.items()}


def _num_different(one: Path, other: Path) -> int:
    """How many values are not the same bits."""
    a, b = checkpoints.read(one), checkpoints.read(other)
    if {n: (v.dtype, v.shape) for n, v in a.items()} != {n: (v.dtype, v.shape) for n, v in b.items()}:
        return sum(values.size for values in a.values())
    return sum(int(np.count_nonzero(a[n].view(f"u{a[n].itemsize}") != b[n].view(f"u{b[n].itemsize}"))) for n in a)


def _density(tensors: Tensors) -> float:
    """Without the tensor whose values cancel."""
    kept = [values for name, values in tensors.items() if name != "cancelling"]
    return sum(np.count_nonzero(values) for values in kept) / sum(values.size for values in kept)


def _dilution(merged: npt.NDArray[Any], a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    alone = (a != 0) != (b != 0)
    value = (a + b)[alone].astype(np.longdouble)
    return float(np.max(np.abs(merged[alone] - value) / np.abs(value)))


def _mean(inputs: Sequence[npt.NDArray[Any]], *, active: bool) -> npt.NDArray[np.longdouble]:
    num = sum((values != 0).astype(int) for values in inputs) if active else len(inputs)
    return sum(values.astype(np.longdouble) for values in inputs) / np.maximum(1, num)


def _ulps(merged: npt.NDArray[Any], mean: npt.NDArray[np.longdouble]) -> float:
    ulp = np.spacing(np.abs(mean).astype(np.float32)).astype(np.longdouble)
    return float(np.max(np.abs(merged.astype(np.longdouble) - mean) / ulp))


def _zero(report: KeptReport, tool: Tool, name: str, value: float, unit: str, against: str) -> None:
    """For us a bar, for a peer a fact."""
    if tool.bars:
        report.at_most(name, value, unit, bar=0, against=against)
    else:
        report.fact(name, value, unit, against=against)


def _failed(report: KeptReport, tool: Tool, name: str, error: RuntimeError) -> None:
    if tool.bars:
        report.at_most(f"{name}.failed", 1, "runs", bar=0, against=str(error))
    else:
        report.fact(f"{name}.failed", str(error), "", against="")
