"""The benchmark's own instruments: what they measure is what happened."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.merging import checkpoints, meter
from safetensors.numpy import load_file
from tests.hang import HANG_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_private_memory_of_children_counts():
    child = "x = bytes([1]) * 150_000_000; import time; time.sleep(2)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    run = meter.measure([sys.executable, "-c", parent])
    assert run.error is None
    assert 150_000_000 < run.peak_bytes < 250_000_000


def test_cpu_time_of_threads_and_children_counts():
    child = "import time\nwhile time.process_time() < 0.3: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    run = meter.measure([sys.executable, "-c", parent])
    assert 0.3 < run.cpu_s < 5
    assert run.wall_s > 0.3


def test_a_failure_is_told_with_its_last_line():
    run = meter.measure([sys.executable, "-c", "raise SystemExit('no such thing')"])
    assert run.error == "exit code 1: no such thing"


def test_limits_stop_a_run():
    slow = meter.measure([sys.executable, "-c", "import time; time.sleep(1000)"], limit_s=0.2)
    large = meter.measure(
        [sys.executable, "-c", "x = bytes([1]) * 100_000_000; import time; time.sleep(1000)"], limit_bytes=50_000_000
    )
    assert slow.error == "stopped: the time limit" and slow.wall_s < HANG_S
    assert large.error is not None and "private memory" in large.error


def test_a_median_leaves_failures_out():
    runs = [
        meter.Run(wall_s=wall, cpu_s=1, peak_bytes=2, error=error) for wall, error in ((1, None), (9, "no"), (3, None))
    ]
    assert meter.median(runs).wall_s == 2
    assert meter.median(runs[1:2]).error == "no"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    shapes = [
        checkpoints.Entry(f"{kind}.{name}", dtype, kind, shape, name)
        for kind in ("weight", "exp_avg", "exp_avg_sq")
        for name, dtype, shape in (("matrix", "F32", (1000, 1100)), ("vector", "F32", (100,)), ("scalar", "F32", ()))
    ]
    shapes.append(checkpoints.Entry("buffer", "I64", checkpoints.BUFFER, (33,), "buffer"))
    seeds = {"a": (1, 1), "b": (2, 2), "same masks": (3, 1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "POOL", 1 << 19)
        return {
            name: checkpoints.write(folder / f"{name}.safetensors", shapes, values=values, mask=mask)
            for name, (values, mask) in seeds.items()
        }


def test_checkpoints_are_sparse_and_moments_are_masked_like_weights(written: dict[str, Path]):
    a = load_file(written["a"])
    held = a["weight.matrix"] != 0
    assert 0.06 < held.mean() < 0.08
    assert np.array_equal(a["exp_avg.matrix"] != 0, held) and np.array_equal(a["exp_avg_sq.matrix"] != 0, held)
    assert (a["exp_avg_sq.matrix"] >= 0).all()
    assert (a["weight.vector"] != 0).all() and a["weight.scalar"].shape == ()


def test_checkpoints_differ_in_masks_or_in_values_only(written: dict[str, Path]):
    a, b, same = (load_file(path) for path in written.values())
    assert not np.array_equal(a["weight.matrix"] != 0, b["weight.matrix"] != 0)
    assert np.array_equal(a["weight.matrix"] != 0, same["weight.matrix"] != 0)
    assert not np.array_equal(a["weight.matrix"], same["weight.matrix"])
    assert np.array_equal(a["buffer"], b["buffer"])


def test_our_reader_agrees_with_safetensors(written: dict[str, Path]):
    ours, theirs = checkpoints.read(written["a"]), load_file(written["a"])
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_the_real_shape_is_the_published_one():
    entries = checkpoints.real_shape()
    assert sum(entry.num_values for entry in entries if entry.name.startswith("model.")) == 1_088_579_228 + 689_117
    assert sum(entry.num_bytes for entry in entries if entry.kind != checkpoints.BUFFER) == 12 * 1_088_579_228
    assert sum(entry.name.startswith("model.") for entry in entries) == 835
