"""The merge path on one core: what it costs to read one delta and fold it, beside copying memory.

`fold.*`: a delta's bytes are validated, decoded and added to the exact sum. It must read the encoded delta, and read
and write every int64 of the chunks that something is sent to (a sum is a value: the new one shares only the chunks that
are not touched). The bar is the speed of `np.copyto` over as many bytes, read and written together. `of_what_changes`
counts only the sums that change, which is what a sum that is overwritten in place would have to touch.

`fold.top25_of_2_24` is the same for a delta that no cache holds. There the C library may decide how fast it is: if it
gives the memory of an old sum back, the system zeroes every new one page by page. `_kept` forbids it to
(MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_).

`encode.*`: an author's side, from the float32 values to the bytes. `twin`: the same by the NumPy twins of the kernels.
Values are Laplace, so the sent positions are uniformly random. All pairs of timings are interleaved in one process, in
CPU time; medians of these, with the least and the largest. All of it once per instruction set that the machine has,
NumPy limited alike (`sets`); the C library copies memory with the best that it knows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from harness import Report, Spread
from sets import bar_in, per_set
from spikemesh.codec import DENSE, TOP_K, QuantisedDelta, Table, encode_delta, quantise, read_delta, select_top_k
from spikemesh.crdt import CHUNK_COORDINATES, IntegerSum
from spikemesh.kernels import dispatch, instruction_set

NUM_COORDINATES = 1 << 20
LARGE = 1 << 24
GRID = -26
WEIGHT = 1024
REPEATS = 51
BAR = 0.25

Floats = npt.NDArray[np.float32]
Work = Callable[[], object]


@contextmanager
def numpy_twins() -> Iterator[None]:
    native = dispatch.native
    dispatch.native = None
    try:
        yield
    finally:
        dispatch.native = native


def in_numpy(work: Work) -> Work:
    def twin() -> object:
        with numpy_twins():
            return work()

    return twin


def seconds_of(*works: Work, repeats: int = REPEATS) -> list[list[float]]:
    """The works in turn, again and again."""
    times: list[list[float]] = [[] for _ in works]
    for round_number in range(repeats + 2):
        for work, found in zip(works, times, strict=True):
            start = time.process_time()
            work()
            if round_number >= 2:
                found.append(time.process_time() - start)
    return times


def medians_s(*works: Work, repeats: int = REPEATS) -> list[float]:
    return [statistics.median(found) for found in seconds_of(*works, repeats=repeats)]


def encode(values: Floats, density: float, table: Table) -> bytes:
    indices = select_top_k(values, density)
    codes, scales = quantise(values[indices], table, GRID)
    return encode_delta(QuantisedDelta(len(values), indices, codes, scales, table))


class Fold:
    """A running sum, to which one delta is added again and again."""

    def __init__(self, data: bytes, num_coordinates: int) -> None:
        self.data = data
        self.total = IntegerSum.zero(num_coordinates)
        delta = read_delta(data, num_coordinates=num_coordinates)
        chunks = [self.total.chunks[number] for number in delta.touched()]
        self.touched_bytes = len(data) + 16 * sum(len(chunk.values) for chunk in chunks)
        self.changing_bytes = len(data) + 16 * int(delta.num_sent.sum())

    def read(self) -> object:
        return read_delta(self.data, num_coordinates=self.total.num_coordinates)

    def __call__(self) -> None:
        delta = read_delta(self.data, num_coordinates=self.total.num_coordinates)
        self.total = self.total.fold([(delta, WEIGHT)])


def copying(num_bytes: int) -> Work:
    """Reading and writing `num_bytes` all together."""
    source, target = np.ones(num_bytes // 2, np.uint8), np.zeros(num_bytes // 2, np.uint8)
    return lambda: np.copyto(target, source)


def measure_fold(report: Report, name: str, data: bytes) -> None:
    fold = Fold(data, NUM_COORDINATES)
    copies, folds, reads = seconds_of(copying(fold.touched_bytes), fold, fold.read)
    copy_s, read_s, share = statistics.median(copies), statistics.median(reads), Spread.of_ratios(copies, folds)
    against = f"np.copyto, {fold.touched_bytes / 1e6:.3g} MB read and written in {copy_s * 1e3:.3g} ms"
    report.at_least(f"fold.{name}", share, "of memory copy speed", bar=bar_in(report, BAR), against=against)
    strict = share.median * fold.changing_bytes / fold.touched_bytes
    against = f"np.copyto; {fold.changing_bytes / 1e6:.3g} MB counted"
    report.fact(f"fold.{name}_of_what_changes", strict, "of memory copy speed", against=against)
    ms = Spread.of([1000 * each for each in folds])
    report.fact(f"fold.{name}_time", ms, "ms", against=f"reading alone: {read_s * 1e3:.3g} ms")


def measure_twin(report: Report, name: str, data: bytes) -> None:
    fold = Fold(data, NUM_COORDINATES)
    folds, twins = seconds_of(fold, in_numpy(fold), repeats=9)
    ratio, twin_s = Spread.of_ratios(twins, folds), statistics.median(twins)
    report.fact(f"fold.{name}_speedup", ratio, "times", against=f"NumPy twin: {twin_s * 1e3:.3g} ms")


def measure_encode(report: Report, name: str, values: Floats, density: float, table: Table) -> None:
    def work() -> bytes:
        return encode(values, density, table)

    own_s, twin_s = medians_s(work, in_numpy(work), repeats=9)
    own, twin = (values.nbytes / seconds / 1e6 for seconds in (own_s, twin_s))
    report.fact(f"encode.{name}", own, "MB/s of float32 values", against=f"NumPy twin: {twin:.3g} MB/s")
    report.fact(f"encode.{name}_speedup", own / twin, "times", against="NumPy twin: 1")
    _measure_steps(report, name, values, density, table)


def _measure_steps(report: Report, name: str, values: Floats, density: float, table: Table) -> None:
    indices = select_top_k(values, density)
    sent = values[indices]
    delta = QuantisedDelta(len(values), indices, *quantise(sent, table, GRID), table)
    steps: dict[str, Work] = {
        "select": lambda: select_top_k(values, density),
        "quantise": lambda: quantise(sent, table, GRID),
        "to_bytes": lambda: encode_delta(delta),
    }
    for step, work in steps.items():
        own_s, twin_s = medians_s(work, in_numpy(work), repeats=9)
        report.fact(f"encode.{name}_{step}", own_s * 1e3, "ms", against=f"NumPy twin: {twin_s * 1e3:.3g} ms")


def measure_large(report: Report) -> None:
    """In processes of their own, since the C library reads its settings when it starts."""
    kept = {"MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_MMAP_THRESHOLD_": str(1 << 40)}
    for name, settings in (("", {}), ("_kept", kept)):
        done = subprocess.run(
            [sys.executable, __file__, "--large"], env=os.environ | settings, capture_output=True, text=True, check=True
        )
        ratio, copy_s, fold_s = map(float, done.stdout.split())
        against = f"np.copyto: {copy_s * 1e3:.3g} ms; this: {fold_s * 1e3:.3g} ms"
        report.fact(f"fold.top25_of_2_24{name}", ratio, "of memory copy speed", against=against)


def print_large() -> None:
    values = (np.random.default_rng(1).laplace(size=LARGE) * 1e-3).astype(np.float32)
    fold = Fold(encode(values, 0.25, TOP_K), LARGE)
    copy_s, fold_s = medians_s(copying(fold.touched_bytes), fold, repeats=9)
    print(copy_s / fold_s, copy_s, fold_s)


def measure(report: Report) -> None:
    report.fact("instruction_set", instruction_set, "", against=f"{CHUNK_COORDINATES} coordinates per chunk")
    rng = np.random.default_rng(1)
    values = (rng.laplace(size=NUM_COORDINATES) * 1e-3).astype(np.float32)
    cases = (("top25", 0.25, TOP_K), ("top1_64", 1 / 64, TOP_K), ("dense", 1.0, DENSE))
    for name, density, table in cases:
        data = encode(values, density, table)
        measure_fold(report, name, data)
        measure_twin(report, name, data)
    for name, density, table in cases:
        measure_encode(report, name, values, density, table)
    measure_large(report)


if __name__ == "__main__":
    if "--large" in sys.argv:
        print_large()
    else:
        main_parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        sys.exit(per_set(__file__, main_parser, measure))
