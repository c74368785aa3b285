"""Bytes on the wire: a delta with its signed record, over 2^20 coordinates, in bytes per coordinate.

Values are Laplace (heavy tails), so the sent positions are uniformly random, which is the worst case for gaps. The
record is a real one: signed, and with a causal past of four volunteers, as in the demo. Beside that: how far the 4-bit
values are from what they stand for (|values - decoded| / |values|), and how long the codec takes (`merge_path.py` says
more).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from harness import Report
from spikemesh.codec import (
    DENSE,
    TOP_K,
    QuantisedDelta,
    Table,
    bounded_past,
    decode_delta,
    decode_record,
    encode_delta,
    quantise,
    select_top_k,
    sign_record,
)
from spikemesh.crdt import CausalContext, Contribution, PastEntry

NUM_COORDINATES = 1 << 20
GRID = -26
REPEATS = 9

UNIFORM = Table("uniform", tuple(range(-120, 120, 15)))
"""Plain 4-bit integers, with our scales."""

Floats = npt.NDArray[np.float32]


def delta_of(values: Floats, density: float, table: Table) -> QuantisedDelta:
    indices = select_top_k(values, density)
    codes, scales = quantise(values[indices], table, GRID)
    return QuantisedDelta(len(values), indices, codes, scales, table)


def record_bytes(delta: bytes, num_authors: int) -> int:
    """The size of a signed record that names `delta`, by one of `num_authors` volunteers in their 100th round."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    author = key.public_key().public_bytes_raw()
    others = [PastEntry(blake3(bytes([n])).digest(), 100) for n in range(num_authors - 1)]
    record = sign_record(
        Contribution(
            run_id=blake3(b"run").digest(),
            author=author,
            seq=101,
            past=bounded_past(CausalContext.from_entries([*others, PastEntry(author, 100)]), author),
            weight=1024,
            delta_hash=blake3(delta).digest(),
            delta_bytes=len(delta),
            num_tokens=40_960,
        ),
        key,
    )
    assert decode_record(record.wire, run_id=blake3(b"run").digest()) == record
    return len(record.wire)


def relative_error(values: Floats, density: float, table: Table) -> float:
    delta = delta_of(values, density, table)
    sent = values[delta.indices]
    return float(np.linalg.norm(delta.values(GRID) - sent) / np.linalg.norm(sent))


def seconds(work: Callable[[], object]) -> float:
    """The median of a few runs."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(report: Report) -> None:
    rng = np.random.default_rng(1)
    laplace = (rng.laplace(size=NUM_COORDINATES) * 1e-3).astype(np.float32)
    gaussian = (rng.standard_normal(NUM_COORDINATES) * 1e-3).astype(np.float32)
    for name, density, bar in (("top25", 0.25, 0.24), ("top1_64", 1 / 64, 0.024)):
        delta = encode_delta(delta_of(laplace, density, TOP_K))
        size, largest = ((len(delta) + record_bytes(delta, n)) / NUM_COORDINATES for n in (4, 64))
        report.at_most(f"wire.{name}", size, "bytes per coordinate", bar=bar, against="fp32: 4")
        report.fact(f"wire.{name}_64_authors", largest, "bytes per coordinate", against="a past of 4 authors")
        report.fact(f"wire.{name}_times_smaller", 4 / size, "ratio", against="fp32: 1")
    _measure_errors(report, {"gaussian": gaussian, "laplace": laplace})
    _measure_time(report, laplace)


def _measure_errors(report: Report, samples: dict[str, Floats]) -> None:
    for kind, values in samples.items():
        for name, density in (("top25", 0.25), ("top1_64", 1 / 64)):
            error = relative_error(values, density, TOP_K)
            other = f"the dense table: {relative_error(values, density, DENSE):.3f}"
            if (kind, name) == ("laplace", "top25"):
                report.fact(f"error.{kind}_{name}", error, "relative error", against=other)
            else:
                report.at_most(f"error.{kind}_{name}", error, "relative error", bar=0.05, against=other)
        error = relative_error(values, 1.0, DENSE)
        other = f"uniform levels: {relative_error(values, 1.0, UNIFORM):.3f}"
        report.at_most(f"error.{kind}_dense", error, "relative error", bar=0.1, against=other)


def _measure_time(report: Report, values: Floats) -> None:
    delta = delta_of(values, 0.25, TOP_K)
    data = encode_delta(delta)
    copy_s = seconds(values.copy)
    for name, work in (
        ("select_top_k", lambda: select_top_k(values, 0.25)),
        ("quantise", lambda: quantise(values[delta.indices], TOP_K, GRID)),
        ("encode", lambda: encode_delta(delta)),
        ("decode", lambda: decode_delta(data, num_coordinates=NUM_COORDINATES)),
        ("to_delta", delta.to_delta),
    ):
        duration_s = seconds(work)
        against = f"copying the float32 values: {copy_s * 1e3:.2g} ms"
        report.fact(f"time.{name}_top25", duration_s * 1e3, "ms per 2^20 coordinates", against=against)


if __name__ == "__main__":
    main_report = Report(__file__, __doc__)
    measure(main_report)
    sys.exit(main_report.finish())
