"""`verify` says equal exactly if the file is what its inputs give, to the bit, and names what is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given

from spikemesh.checkpoint import IN_METADATA, VerifyReport, inspect, merge, verify
from spikemesh.checkpoint.content import PIECE_BYTES
from spikemesh.checkpoint.known import CACHE_VARIABLE
from spikemesh.checkpoint.recipe import CHECKSUM_KEY, METADATA_KEY
from spikemesh.errors import CheckpointError, InvalidData
from tests.checkpoint.conftest import place
from tests.checkpoint.files import (
    Raw,
    f32,
    i64,
    leftovers,
    read_metadata,
    read_safetensors,
    torch_tensors,
    write_safetensors,
    write_shards,
    write_torch,
)
from tests.checkpoint.strategies import Bench, Case, cases


@pytest.fixture
def inputs(folder: Path) -> list[Path]:
    ids = i64(7)
    return [
        write_safetensors(folder / "a.safetensors", {"w": f32(1, 2, 3), "v": f32(0.5), "ids": ids}, {"model": "m"}),
        write_safetensors(folder / "b.safetensors", {"w": f32(4, 2, 0), "v": f32(0.25), "ids": ids}, {"model": "m"}),
    ]


def names(report: VerifyReport) -> list[str]:
    return [difference.tensor for difference in report.differences]


@given(cases(huge=False))
def test_every_merge_is_what_it_says(case: Case) -> None:
    with place() as folder:
        bench = Bench(folder, case)
        try:
            made = bench.merge_all()
        except CheckpointError as error:
            assert "are the same checkpoint" in str(error)
            return
        report = verify(made.out, bench.inputs, base=bench.base, mask_from=bench.mask)
        assert report.differences == () and report.recipe == made.recipe
        assert report.num_tensors == made.num_tensors and report.num_bytes == made.bytes_written
        assert verify(made.out, [], num_threads=1).differences == ()  # they are where they were


def test_every_flipped_byte_is_found(inputs: list[Path], folder: Path) -> None:
    """In the data it is named; in the header it is that of another table, or of other words, or damage."""
    out = merge(inputs, out=folder / "out.safetensors", weights=[1, 2], rule="sum").out
    good = out.read_bytes()
    start = 8 + int.from_bytes(good[:8], "little")
    spaces = start - len(good[:start].rstrip(b" "))
    positions = [*range(start - spaces + 3), *range(start, len(good))]
    for position in positions:
        for flip in (0x01, 0x80, 0xFF):
            data = bytearray(good)
            data[position] ^= flip
            out.write_bytes(data)
            try:
                report = verify(out, inputs)
            except (InvalidData, CheckpointError) as error:
                assert position < start, position
                assert str(error)
                continue
            assert report.differences, position
            if position >= start:
                (difference,) = [d for d in report.differences if not d.tensor.startswith(IN_METADATA)]
                raw = read_safetensors(out)
                tensor = raw[difference.tensor]
                size = len(tensor.data) // tensor.shape[0]
                there = tensor.data[difference.element * size :][:size]
                assert there.hex() == difference.seen != difference.expected
                assert good[start:].count(bytes.fromhex(difference.expected))
    out.write_bytes(good)
    assert verify(out, inputs).differences == ()


def test_the_first_of_several_differences_is_named(folder: Path) -> None:
    """Three threads find them in any order."""
    count = PIECE_BYTES
    a = write_safetensors(folder / "a.safetensors", {"w": Raw("F32", (count,), b"\0\0\x80\x3f" * count)})
    out = merge([a], out=folder / "out.safetensors").out
    data = bytearray(out.read_bytes())
    start = len(data) - 4 * count
    for element in (count - 1, count // 2, 300_001):
        data[start + 4 * element] ^= 1
    out.write_bytes(data)
    report = verify(out, [a], num_threads=3)
    (difference,) = [d for d in report.differences if d.tensor == "w"]
    assert (difference.element, difference.expected, difference.seen) == (300_001, "0000803f", "0100803f")


def rewrite(out: Path, change: Callable[[dict[str, Raw], dict[str, str]], object]) -> None:
    tensors, metadata = read_safetensors(out), read_metadata(out)
    change(tensors, metadata)
    write_safetensors(out, tensors, metadata)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda t, _: t.pop("v"), ["v"]),
        (lambda t, _: t.update(more=f32(1)), ["more"]),
        (lambda t, _: t.update(v=Raw("I32", (1,), t["v"].data)), ["v"]),
        (lambda t, _: t.update(v=f32(0.375, shape=())), ["v"]),
        (lambda t, _: (t.pop("v"), t.update(u=f32(0.375))), ["u", "v"]),
        (lambda t, _: t.update(ids=i64(8)), ["ids"]),
        (lambda _, m: m.update(model="n"), [IN_METADATA + "model"]),
        (lambda _, m: m.pop("model"), [IN_METADATA + "model"]),
        (lambda _, m: m.pop("format"), [IN_METADATA + "format"]),
        (lambda _, m: m.pop(CHECKSUM_KEY), [IN_METADATA + CHECKSUM_KEY]),
        (lambda _, m: m.update({CHECKSUM_KEY: "0" * 64}), [IN_METADATA + CHECKSUM_KEY]),
        (lambda _, m: m.update({METADATA_KEY: m[METADATA_KEY] + " "}), [IN_METADATA + METADATA_KEY]),
        (lambda _, m: m.update(note="written by another program"), []),
        (lambda t, _: t.update(dict(reversed(list(t.items())))), []),
    ],
)
def test_what_was_changed_is_named(
    change: Callable[[dict[str, Raw], dict[str, str]], object], found: list[str], inputs: list[Path], folder: Path
) -> None:
    out = merge(inputs, out=folder / "out.safetensors").out
    rewrite(out, change)
    assert names(verify(out, inputs)) == found


def test_the_words_of_every_shard_are_compared(inputs: list[Path], folder: Path) -> None:
    out = merge(inputs, out=folder / "out", shard_bytes=4).out
    assert verify(out, inputs).differences == ()
    shard = sorted(out.glob("*.safetensors"))[-1]
    rewrite(shard, lambda _, metadata: metadata.update(model="n"))
    assert names(verify(out, inputs)) == [IN_METADATA + "model"]


def test_another_recipe_is_another_result(inputs: list[Path], folder: Path) -> None:
    out = merge(inputs, out=folder / "out.safetensors").out

    def change(_: dict[str, Raw], metadata: dict[str, str]) -> None:
        recipe = json.loads(metadata[METADATA_KEY])
        recipe["leaves"][0]["weight"] = "3"
        metadata[METADATA_KEY] = json.dumps(recipe, separators=(",", ":"))

    rewrite(out, change)
    assert names(verify(out, inputs)) == [IN_METADATA + CHECKSUM_KEY, "v", "w"]


# ---- inputs ----------------------------------------------------------------------------------------------------------


def test_other_inputs_are_refused(inputs: list[Path], folder: Path) -> None:
    out = merge(inputs, out=folder / "out.safetensors").out
    other = write_safetensors(folder / "c.safetensors", {"w": f32(9)})
    with pytest.raises(CheckpointError, match=r"c\.safetensors was not merged into this file"):
        verify(out, [*inputs, other])
    with pytest.raises(CheckpointError, match=r"c\.safetensors was not merged into this file"):
        verify(out, [other])


def test_a_file_that_was_not_merged_is_refused(inputs: list[Path]) -> None:
    with pytest.raises(CheckpointError, match=r"a\.safetensors does not say that it was merged from anything"):
        verify(inputs[0], inputs)


def test_inputs_may_be_copies_in_other_containers(inputs: list[Path], folder: Path) -> None:
    out = merge(inputs, out=folder / "out.safetensors").out
    tensors = read_safetensors(inputs[0])
    copies = [
        write_torch(folder / "a.pt", torch_tensors(tensors)),
        write_shards(folder / "shards", tensors),
        write_safetensors(folder / "copy.safetensors", dict(reversed(tensors.items()))),
    ]
    for copy in copies:
        assert verify(out, [copy, inputs[1]]).differences == ()
    assert verify(out, [*copies, *inputs]).differences == ()


def test_inputs_may_be_the_groups_that_were_merged(inputs: list[Path], folder: Path) -> None:
    c = write_safetensors(folder / "c.safetensors", {"w": f32(9, 9, 9)})
    pair = merge(inputs, out=folder / "pair.safetensors").out
    out = merge([pair, c], out=folder / "out.safetensors").out
    assert verify(out, [pair, c]).differences == ()
    other = merge(
        [inputs[0], write_safetensors(folder / "d.safetensors", {"w": f32(8, 8, 8)})], out=folder / "other"
    ).out
    with pytest.raises(CheckpointError, match="other was not merged into this file"):
        verify(out, [other, c])
    as_is = merge([pair, c], out=folder / "as-is.safetensors", as_is=True).out
    assert verify(as_is, [pair, c]).differences == ()


def test_what_is_not_given_is_looked_for_where_it_was(
    inputs: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_safetensors(folder / "base.safetensors", {"w": f32(1, 1, 1)})
    mask = write_safetensors(folder / "mask.safetensors", {"w": f32(1, 0, 1)})
    made = merge(inputs, out=folder / "out.safetensors", base=base, mask_from=mask)
    assert verify(made.out, []).differences == ()
    assert verify(made.out, inputs[:1], base=base).differences == ()
    with pytest.raises(CheckpointError, match=f"the base is not the one .* expected content {made.recipe.base}"):
        verify(made.out, [], base=mask)
    with pytest.raises(CheckpointError, match=f"the mask is not the one .* expected content {made.recipe.mask}"):
        verify(made.out, [], mask_from=base)
    monkeypatch.setenv(CACHE_VARIABLE, str(folder / "empty"))
    with pytest.raises(CheckpointError, match=f"a base of content {made.recipe.base}. Give it with --base"):
        verify(made.out, inputs)
    with pytest.raises(CheckpointError, match=f"a mask of content {made.recipe.mask}. Give it with --mask-from"):
        verify(made.out, inputs, base=base)
    monkeypatch.setenv(CACHE_VARIABLE, str(folder / "another"))
    with pytest.raises(CheckpointError, match="1 of 2 are not where this machine saw them"):
        verify(made.out, inputs[:1], base=base, mask_from=mask)
    assert verify(made.out, inputs, base=base, mask_from=mask).differences == ()


def test_a_base_that_was_not_used_is_refused(inputs: list[Path], folder: Path) -> None:
    out = merge(inputs, out=folder / "out.safetensors").out
    with pytest.raises(CheckpointError, match="the base is not the one that was merged with: expected none"):
        verify(out, inputs, base=inputs[0])


def test_an_input_that_was_changed_is_another_one(inputs: list[Path], folder: Path) -> None:
    out = merge(inputs, out=folder / "out.safetensors").out
    shutil.copy(inputs[0], folder / "safe.safetensors")
    write_safetensors(inputs[0], {"w": f32(1, 2, 4)})
    with pytest.raises(CheckpointError, match=r"a\.safetensors was not merged into this file"):
        verify(out, inputs)
    with pytest.raises(CheckpointError, match="1 of 2 are not where"):
        verify(out, [])
    assert verify(out, [folder / "safe.safetensors"]).differences == ()


def test_nothing_is_written(inputs: list[Path], folder: Path) -> None:
    out = merge(inputs, out=folder / "out.safetensors").out
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    verify(out, inputs)
    inspect(out)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")} == before
    assert not leftovers(folder)
