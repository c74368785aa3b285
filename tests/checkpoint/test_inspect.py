"""`inspect`: counts, ranges, what is not finite, and where a merged file came from."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikemesh.checkpoint import InspectReport, TensorReport, inspect, merge
from spikemesh.checkpoint.content import PIECE_BYTES
from spikemesh.checkpoint.known import CACHE_VARIABLE
from spikemesh.kernels import ELEMENTS
from tests.checkpoint import reference
from tests.checkpoint.conftest import place
from tests.checkpoint.files import Raw, f32, i64, torch_tensors, write_safetensors, write_torch
from tests.checkpoint.strategies import FLOATS, SHAPES, raws


def seen(path: Path) -> dict[str, TensorReport]:
    return {tensor.name: tensor for tensor in inspect(path).tensors}


@given(st.data(), st.sampled_from(FLOATS), st.sampled_from(SHAPES))
def test_counts_and_ranges(data: st.DataObject, element: str, shape: tuple[int, ...]) -> None:
    raw = data.draw(raws(element, shape))
    numbers = reference.decode(element, raw.data)
    with place() as folder:
        found = seen(write_safetensors(folder / "a.safetensors", {"w": raw}))["w"]
    assert (found.element, found.shape, found.num_elements) == (element, shape, len(numbers))
    assert found.num_nonzero == sum(number != 0 for number in numbers)
    assert found.density == (found.num_nonzero / len(numbers) if numbers else 0)
    assert found.num_non_finite == 0
    assert Fraction(found.smallest) == min(numbers, default=0)
    assert Fraction(found.largest) == max(numbers, default=0)


@pytest.mark.parametrize("element", FLOATS)
def test_what_is_not_finite_is_counted_and_in_no_range(folder: Path, element: str) -> None:
    form = reference.FORMATS[element]
    sign = 1 << (8 * form.num_bytes - 1)
    bits = [form.nearest(Fraction(-2)), sign - 1, sign | (sign - 1), form.nearest(Fraction(3)), 0]
    if element != "F8_E4M3":  # which has no infinity
        bits.append(sign | (form.largest + 1))
    raw = Raw(element, (len(bits),), b"".join(x.to_bytes(form.num_bytes, "little") for x in bits))
    nothing = Raw(element, (1,), (sign - 1).to_bytes(form.num_bytes, "little"))
    path = write_safetensors(folder / "a.safetensors", {"w": raw, "nothing": nothing})
    found = seen(path)
    assert found["w"].num_non_finite == len(bits) - 3
    assert (found["w"].smallest, found["w"].largest) == (-2, 3)
    assert (found["nothing"].smallest, found["nothing"].largest) == (0, 0)
    assert inspect(path).num_non_finite == len(bits) - 2


@pytest.mark.parametrize("element", sorted(name for name, element in ELEMENTS.items() if element.kind == "int"))
def test_integers(folder: Path, element: str) -> None:
    dtype = np.dtype({"U": "<u", "I": "<i"}[element[0]] + str(ELEMENTS[element].size_bytes))
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    raw = Raw(element, (4,), np.array([0, low, high, 1], dtype).tobytes())
    found = seen(write_safetensors(folder / "a.safetensors", {"n": raw}))["n"]
    assert (found.smallest, found.largest) == (float(low), float(high))
    assert found.num_nonzero == (3 if low else 2)


def test_totals_over_stretches_and_threads(folder: Path) -> None:
    count = PIECE_BYTES // 4 * 3 + 5
    data = np.zeros(count, "<f4")
    data[::7] = 1
    data[[0, count // 2, count - 1]] = [math.inf, -5, 9]
    raw = Raw("F32", (count,), data.tobytes())
    path = write_safetensors(folder / "a.safetensors", {"w": raw, "n": i64(1, 0), "e": f32()})
    reports = [inspect(path, num_threads=threads) for threads in (1, 3)]
    assert reports[0] == reports[1]
    report = reports[0]
    assert report.num_elements == count + 2
    assert report.num_nonzero == np.count_nonzero(data) + 1
    assert report.num_non_finite == 1
    assert report.size_bytes == 4 * count + 16
    assert report.density == report.num_nonzero / report.num_elements
    assert [tensor.name for tensor in report.tensors] == ["e", "n", "w"]
    assert (report.tensors[2].smallest, report.tensors[2].largest) == (-5, 9)
    assert report.recipe is None and not report.unchanged and report.found == {}


def test_what_is_no_tensor_is_named(folder: Path) -> None:
    report = inspect(write_torch(folder / "a.pt", {"epoch": 3, **torch_tensors({"w": f32(1)})}))
    assert report.left_out == ("epoch",)
    assert report.path == folder / "a.pt"


def merged(folder: Path) -> tuple[Path, list[Path]]:
    paths = [write_safetensors(folder / f"{i}.safetensors", {"w": f32(i, 2)}) for i in (1, 5)]
    return merge(paths, out=folder / "out.safetensors", weights=[1, 3], dtype="bf16").out, paths


def test_where_a_merged_file_came_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, paths = merged(folder)
    report = inspect(out)
    assert report.recipe is not None and report.unchanged
    assert (report.recipe.rule, report.recipe.dtype) == ("active-mean", "bf16")
    weights = {report.found[leaf.content]: leaf.weight for leaf in report.recipe.leaves}
    assert weights == {paths[0]: 1, paths[1]: 3}
    paths[0].unlink()
    assert set(inspect(out).found.values()) == {None, paths[1]}
    monkeypatch.setenv(CACHE_VARIABLE, str(folder / "empty"))
    assert set(inspect(out).found.values()) == {None}


def test_a_merged_file_that_was_changed_says_so(folder: Path) -> None:
    out, _ = merged(folder)
    data = bytearray(out.read_bytes())
    data[-1] ^= 1
    out.write_bytes(data)
    report: InspectReport = inspect(out)
    assert report.recipe is not None and not report.unchanged
