"""Every value of a merge against fractions, for every rule, type and option; and the promises in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import event, given, settings

from spikemesh.checkpoint import RULES, MergeReport, merge, verify
from spikemesh.checkpoint.content import PIECE_BYTES
from spikemesh.checkpoint.recipe import DTYPES
from spikemesh.errors import CheckpointError
from spikemesh.kernels import ELEMENTS
from tests.checkpoint import reference
from tests.checkpoint.conftest import place
from tests.checkpoint.files import Raw, Tensors, f32, i64, read_safetensors, values, write_safetensors
from tests.checkpoint.strategies import FLOATS, Bench, Case, cases, patterns

MASK_FORMS = ("{}", "{}_mask", "{}.mask")


def leaves(case: Case) -> list[tuple[Tensors, Fraction]]:
    """The inputs and their weights: equal ones once, and given weights added up."""
    weights = case.weights or [Fraction(1)] * len(case.inputs)
    found: list[tuple[Tensors, Fraction]] = []
    for tensors, weight in zip(case.inputs, weights, strict=True):
        same = next((i for i, (other, _) in enumerate(found) if dict(tensors) == dict(other)), None)
        if same is None:
            found.append((tensors, weight))
        elif case.weights is not None:
            found[same] = (tensors, found[same][1] + weight)
    return found


def expected(case: Case) -> dict[str, list[Fraction]]:
    """The exact result of each float tensor."""
    found = {}
    for name in {name for tensors in case.inputs for name in tensors}:
        sources = [(tensors[name], weight) for tensors, weight in leaves(case) if name in tensors]
        element, count = sources[0][0].element, len(reference.is_nonzero(sources[0][0].element, sources[0][0].data))
        if element not in reference.FORMATS:
            continue
        base = [Fraction(0)] * count
        if case.base is not None and name in case.base:
            base = reference.decode(element, case.base[name].data)
        masked = [False] * count
        for form in reversed(MASK_FORMS):
            if case.mask is not None and (mask := case.mask.get(form.format(name))) is not None:
                masked = reference.is_nonzero(mask.element, mask.data)
        columns = zip(*(reference.decode(element, raw.data) for raw, _ in sources), strict=True)
        found[name] = [
            reference.combine(case.rule, column, [weight for _, weight in sources], base[i], masked[i])
            for i, column in enumerate(columns)
        ]
    only = {name: raw for name, raw in (case.base or {}).items() if name not in {n for t in case.inputs for n in t}}
    found |= {n: reference.decode(raw.element, raw.data) for n, raw in only.items() if raw.element in reference.FORMATS}
    return found


@settings(max_examples=120)
@given(cases())
def test_exact_and_rounded_once(case: Case) -> None:
    check_values(case)


def check_values(case: Case) -> None:
    exact = expected(case)
    with place() as folder:
        bench = Bench(folder, case)
        try:
            report = bench.merge_all()
        except CheckpointError as error:
            event(str(error).split(" in ")[0])
            assert "beyond the range" in str(error)
            with pytest.raises(OverflowError):
                encoded(case, exact)
            return
        event(f"{case.rule}, {'base' if case.base else ''} {'mask' if case.mask else ''} {case.dtype}")
        result = read_safetensors(report.out)
    inputs = {name for tensors in case.inputs for name in tensors}
    from_base = (case.base or {}).keys() - inputs
    assert result.keys() - inputs == set(report.from_base) == from_base
    numbers = {name: reference.decode(raw.element, raw.data) for name, raw in result.items() if name in exact}
    assert numbers == {n: reference.decode(result_type(case, n), data) for n, data in encoded(case, exact).items()}
    merged_alone = {name: data for name, data in encoded(case, exact).items() if name in inputs}
    assert {name: raw.data for name, raw in result.items() if name in merged_alone} == merged_alone
    for name in inputs:
        raw = result[name]
        source = next(tensors[name] for tensors in case.inputs if name in tensors)
        assert raw.shape == source.shape
        if name not in exact:
            assert raw == source
    check_counts(case, exact, report, result)


def encoded(case: Case, exact: dict[str, list[Fraction]]) -> dict[str, bytes]:
    return {name: reference.encode(result_type(case, name), numbers) for name, numbers in exact.items()}


def result_type(case: Case, name: str) -> str:
    kept = next(tensors[name].element for tensors in (*case.inputs, case.base or {}) if name in tensors)
    return DTYPES.get(case.dtype, kept)


def check_counts(case: Case, exact: dict[str, list[Fraction]], report: MergeReport, result: Tensors) -> None:
    written = {name: reference.is_nonzero(result[name].element, result[name].data) for name in exact}
    vanished = {
        name: sum(value != 0 and not kept for value, kept in zip(numbers, written[name], strict=True))
        for name, numbers in exact.items()
    }
    assert report.num_tensors == len(result)
    assert report.num_coordinates == sum(map(len, exact.values()))
    assert report.num_nonzero == sum(map(sum, written.values()))
    assert report.vanished == {name: count for name, count in vanished.items() if count}
    num_leaves = len(leaves(case))
    held_by = {
        name: sum(name in tensors for tensors, _ in leaves(case)) for name in result.keys() - set(report.from_base)
    }
    assert set(report.partly_held) == {name for name, count in held_by.items() if count < num_leaves}
    assert {name: len(paths) for name, paths in report.partly_held.items()} == {
        name: count for name, count in held_by.items() if count < num_leaves
    }


# ---- in plain words --------------------------------------------------------------------------------------------------


def merged(
    folder: Path, *inputs: Sequence[float], base: Sequence[float] | None = None, **options: object
) -> list[float]:
    paths = [write_safetensors(folder / f"{i}.safetensors", {"w": f32(*w)}) for i, w in enumerate(inputs)]
    if base is not None:
        options["base"] = write_safetensors(folder / "base.safetensors", {"w": f32(*base)})
    out = folder / "out.safetensors"
    merge(paths, out=out, force=True, **options)  # type: ignore[arg-type]
    return values(read_safetensors(out)["w"])


def test_what_one_input_alone_holds_is_not_diluted(folder: Path) -> None:
    assert merged(folder, [0.75, 0, 0], [0, -0.0, 3], [0, 0, 0]) == [0.75, 0, 3]


def test_what_cancels_stays_held(folder: Path) -> None:
    """.5 and -.5 are two values, of which the mean with .3 is .1; their own is 0."""
    a, b, c = ([x] for x in (0.5, -0.5, float(np.float32(0.3))))
    tenth = [float(np.float32(0.1))]
    assert merged(folder, a, b) == [0]
    assert merged(folder, a, b, c) == tenth
    for pair in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
        first, second, third = (folder / f"{i}.safetensors" for i in pair)
        merge([first, second], out=folder / "pair.safetensors", force=True)
        report = merge([folder / "pair.safetensors", third], out=folder / "all.safetensors", force=True)
        assert values(read_safetensors(report.out)["w"]) == tenth


@pytest.mark.parametrize("element", FLOATS)
def test_the_smallest_number_counts(folder: Path, element: str) -> None:
    """Nothing has a threshold: one subnormal alone is the result, and beside 1 it halves it."""
    form = reference.FORMATS[element]
    smallest, one = (bits.to_bytes(form.num_bytes, "little") for bits in (1, form.nearest(Fraction(1))))
    nothing = bytes(form.num_bytes)
    a = write_safetensors(folder / "a.safetensors", {"w": Raw(element, (2,), smallest + smallest)})
    b = write_safetensors(folder / "b.safetensors", {"w": Raw(element, (2,), nothing + one)})
    report = merge([a, b], out=folder / "out.safetensors")
    mean = (form.value(1) + 1) / 2
    assert read_safetensors(report.out)["w"].data == smallest + reference.encode(element, [mean])
    assert report.num_nonzero == 2


@pytest.mark.parametrize("element", FLOATS)
@pytest.mark.parametrize("rule", sorted(RULES))
def test_one_input_comes_out_as_it_went_in(folder: Path, element: str, rule: str) -> None:
    form = reference.FORMATS[element]
    bits = [x for x in patterns(element, huge=True) if form.value(x) != 0]
    raw = Raw(element, (len(bits),), b"".join(x.to_bytes(form.num_bytes, "little") for x in bits))
    a = write_safetensors(folder / "a.safetensors", {"w": raw})
    empty = write_safetensors(folder / "b.safetensors", {"v": raw})
    report = merge([a, empty], out=folder / "out.safetensors", rule=rule, disjoint=True)
    assert read_safetensors(report.out)["w"] == raw


def test_zeros_under_a_mask_are_held(folder: Path) -> None:
    """In the first place the mask says so, in the second it is zero, in the third it is a zero with a sign."""
    mask = write_safetensors(folder / "mask.safetensors", {"w_mask": f32(1, 0, -0.0)})
    assert merged(folder, [3, 3, 3], [0, 0, 0], mask_from=mask) == [1.5, 3, 3]
    assert merged(folder, [3, 3, 3], [0, 0, 0]) == [3, 3, 3]


@pytest.mark.parametrize("element", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I8", "U16", "BOOL"])
def test_a_mask_may_have_any_type(folder: Path, element: str) -> None:
    one = (1).to_bytes(8, "little") if element == "BOOL" else b"\x00" * 7 + b"\x01"
    width = {"F64": 8, "I64": 8, "F32": 4}.get(element, 2 if element in ("F16", "BF16", "U16") else 1)
    raw = Raw(element, (2,), (one[:width] if element == "BOOL" else one[-width:]) + bytes(width))
    mask = write_safetensors(folder / "mask.safetensors", {"w.mask": raw})
    assert merged(folder, [4, 4], [0, 0], mask_from=mask) == [2, 4]


def test_only_what_the_inputs_changed_counts_against_a_base(folder: Path) -> None:
    assert merged(folder, [1, 2, 5], [1, 4, 1], base=[1, 1, 1]) == [1, 3, 5]
    assert merged(folder, [1, 2, 5], [1, 4, 1], base=[1, 1, 1], rule="sum") == [1, 5, 5]
    assert merged(folder, [0, 2, 0], [0, 0, 0], base=[1, 2, 0]) == [0, 0, 0]  # set to zero is a change


def test_integers_are_taken_over_and_counted_apart(folder: Path) -> None:
    big = i64(2**62 + 1, -1)
    tensors = {"steps": big, "w": f32(1.5), "flag": Raw("BOOL", (), b"\1")}
    a = write_safetensors(folder / "a.safetensors", tensors)
    b = write_safetensors(folder / "b.safetensors", {**tensors, "w": f32(2.5)})
    report = merge([a, b], out=folder / "out.safetensors", dtype="bf16")
    result = read_safetensors(report.out)
    assert result["steps"] == big and result["flag"] == tensors["flag"]
    assert result["w"] == Raw("BF16", (1,), b"\x00\x40")
    assert (report.num_coordinates, report.num_nonzero) == (1, 1)


def test_weights_are_exact_decimals(folder: Path) -> None:
    """(0.7 * 10 + 0.3 * 20) / 1 is 13, not 12.99999."""
    a = write_safetensors(folder / "a.safetensors", {"w": Raw("F64", (1,), np.float64(10).tobytes())})
    b = write_safetensors(folder / "b.safetensors", {"w": Raw("F64", (1,), np.float64(20).tobytes())})
    for weights in ([0.7, 0.3], ["0.7", "3/10"], [Fraction(7, 10), "0.30"], [7, 3]):
        report = merge([a, b], out=folder / "out.safetensors", weights=weights, force=True)  # type: ignore[arg-type]
        assert np.frombuffer(read_safetensors(report.out)["w"].data)[0] == 13.0
    report = merge([a, b], out=folder / "out.safetensors", weights=[0.7, 0.3], rule="sum", force=True)
    assert np.frombuffer(read_safetensors(report.out)["w"].data)[0] == 13.0


# ---- longer than one stretch -----------------------------------------------------------------------------------------

LONG = 2 * PIECE_BYTES + 4096 + 5


def tiled(numbers: Sequence[float], dtype: str, count: int) -> np.ndarray:
    return np.resize(np.array(numbers, dtype), count)


@pytest.mark.parametrize(("element", "dtype"), [("F32", "keep"), ("F32", "bf16"), ("F8_E5M2", "f32")])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_tensor_of_several_stretches(folder: Path, element: str, dtype: str, num_threads: int) -> None:
    """Base, mask and result have elements of other sizes than the inputs, so their stretches end elsewhere."""
    # A period that is no power of two, so that every piece is another one; numbers that all formats have.
    a, b, base, mask = [1, 0, 2, 0.5, 3], [4, 8, 0, 0.5, 0, 6, 1], [0.5, 0, 2], [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    width = ELEMENTS[element].size_bytes
    count = LONG // width

    def raw(numbers: Sequence[float]) -> Raw:
        bits = np.frombuffer(reference.encode(element, [Fraction(x) for x in numbers]), f"V{width}")
        return Raw(element, (count,), np.resize(bits, count).tobytes())

    paths = [
        write_safetensors(folder / f"{name}.safetensors", {"w": tensor})
        for name, tensor in [
            ("a", raw(a)),
            ("b", raw(b)),
            ("base", raw(base)),
            ("mask", Raw("I64", (count,), tiled(mask, "<i8", count).tobytes())),
        ]
    ]
    report = merge(
        paths[:2],
        out=folder / "out.safetensors",
        base=paths[2],
        mask_from=paths[3],
        dtype=dtype,
        num_threads=num_threads,
    )
    x, y, z = (tiled(numbers, "<f8", count) for numbers in (a, b, base))
    held = tiled(mask, "<i8", count) != 0
    p, q = (x != z) | held, (y != z) | held
    total = p.astype(int) + q
    mean = np.where(total > 0, (x * p + y * q) / np.maximum(total, 1), z)
    result = read_safetensors(report.out)["w"]
    bits = np.frombuffer(result.data, "<u2" if result.element == "BF16" else "<u4")
    found = (bits.astype("<u4") << 16 if result.element == "BF16" else bits).view("<f4")
    assert np.array_equal(found, mean.astype("<f4"))
    assert report.num_nonzero == np.count_nonzero(mean)


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["direct", "cached"])
def test_a_disk_gets_the_same_bytes_as_memory(
    folder: Path, tmp_path: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors that begin and end anywhere in a page, past the page cache and through it."""
    rng = np.random.default_rng(0)
    inputs = []
    for number in range(2):
        tensors = {
            f"{element}{count}": Raw(element, (count,), rng.integers(0, 50, count * width, np.uint8).tobytes())
            for element, width in (("F32", 4), ("BF16", 2), ("F8_E5M2", 1))
            for count in (1, 1023, 4096, 300_001)
        }
        inputs.append(write_safetensors(folder / f"{number}.safetensors", tensors))
    expected = merge(inputs, out=folder / "out.safetensors").out.read_bytes()
    monkeypatch.setattr("spikemesh.checkpoint.output.CACHED_SHARE", share)
    assert merge(inputs, out=tmp_path / "out.safetensors").out.read_bytes() == expected
    shards = merge(inputs, out=tmp_path / "out", shard_bytes=1_000_000)
    assert verify(shards.out, inputs).differences == ()


def test_a_clash_in_the_last_stretch_is_named(folder: Path) -> None:
    numbers = np.zeros(LONG, np.uint8)
    other = numbers.copy()
    other[LONG - 3 :] = 1
    paths = [
        write_safetensors(folder / f"{i}.safetensors", {"ids": Raw("U8", (LONG,), x.tobytes())})
        for i, x in enumerate((numbers, other))
    ]
    with pytest.raises(CheckpointError, match=f"first at element {LONG - 3}"):
        merge(paths, out=folder / "out.safetensors")
