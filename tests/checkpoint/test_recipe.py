"""Recipes: what a merged file says it is made of, how two of them join, and what a merge makes of that."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikemesh.checkpoint import RULES, Leaf, MergeReport, Recipe, merge, read_recipe
from spikemesh.checkpoint.known import CACHE_VARIABLE
from spikemesh.checkpoint.recipe import CHECKSUM_KEY, DTYPES, METADATA_KEY, parse_weight
from spikemesh.checkpoint.weights import fitted, given_weight, integer_weights
from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.kernels import MAX_INPUTS, MAX_WEIGHT
from tests.checkpoint.files import f32, read_metadata, read_safetensors, values, write_safetensors
from tests.checkpoint.strategies import WEIGHTS

A, B, C = (f"{digit}" * 64 for digit in "abc")

contents = st.sampled_from([A, B, C, "0" * 64])
leaf_sets = st.frozensets(st.builds(Leaf, contents, st.sampled_from(WEIGHTS)), max_size=6)


@st.composite
def groups(draw: st.DrawFn, size: int) -> list[Recipe]:
    """Recipes that were made in one way, of any leaves."""
    made = {
        "rule": draw(st.sampled_from(sorted(RULES))),
        "dtype": draw(st.sampled_from(["keep", *DTYPES])),
        "base": draw(st.none() | contents),
        "mask": draw(st.none() | contents),
    }
    return [Recipe(leaves=draw(leaf_sets), **made) for _ in range(size)]


@given(groups(3))
def test_join_is_a_join(group: list[Recipe]) -> None:
    a, b, c = group
    before = [dataclasses.replace(recipe) for recipe in group]
    assert a.join(b) == b.join(a)
    assert a.join(b).join(c) == a.join(b.join(c))
    assert a.join(a) == a
    assert a.join(b).join(b) == a.join(b)
    assert a.join(b).leaves >= a.leaves
    assert a.join(dataclasses.replace(a, leaves=frozenset())) == a
    assert a.join(b).leaves == a.leaves | b.leaves
    assert group == before


@given(groups(2), st.sampled_from(WEIGHTS), st.sampled_from(WEIGHTS))
def test_scaling_is_an_action_on_joins(group: list[Recipe], by: Fraction, and_by: Fraction) -> None:
    a, b = group
    assert a.join(b).scaled(by) == a.scaled(by).join(b.scaled(by))
    assert a.scaled(by).scaled(and_by) == a.scaled(by * and_by)
    assert a.scaled(Fraction(1)) == a


@given(groups(1).filter(lambda group: bool(group[0].leaves)))
def test_metadata_round_trip(group: list[Recipe]) -> None:
    (recipe,) = group
    text = recipe.to_metadata()
    assert read_recipe({METADATA_KEY: text, "format": "pt"}) == recipe
    order = dataclasses.replace(recipe, leaves=frozenset(sorted(recipe.leaves, reverse=True)))
    assert order.to_metadata() == text


def test_a_file_that_was_not_merged_has_no_recipe() -> None:
    assert read_recipe({}) is None
    assert read_recipe({"format": "pt"}) is None


@pytest.mark.parametrize(
    ("field", "other"), [("rule", "mean"), ("base", A), ("mask", B), ("dtype", "bf16")], ids=lambda x: str(x)[:9]
)
def test_what_was_made_in_different_ways_does_not_join(field: str, other: str) -> None:
    one = Recipe(rule="sum", leaves=frozenset({Leaf(C)}))
    two = dataclasses.replace(one, **{field: other})
    for x, y in ((one, two), (two, one)):
        with pytest.raises(CheckpointError, match=f"{field} .*{other}.* original files with one {field}.*--as-is"):
            x.join(y)


GOOD = Recipe(rule="mean", leaves=frozenset({Leaf(A), Leaf(B, Fraction(1, 3))}), base=C).to_metadata()


def changed(**fields: object) -> str:
    return json.dumps(json.loads(GOOD) | fields)


DAMAGED = {
    "nothing": "",
    "no JSON": "{",
    "cut": GOOD[:-1],
    "more behind it": GOOD + "x",
    "a list": "[]",
    "another format": changed(format=3),
    "options of the first format": changed(format=1, skip=["x"]),
    "a format that is text": changed(format="1"),
    "no leaves": changed(leaves=[]),
    "a leaf without a weight": changed(leaves=[{"content": A}]),
    "a leaf that is no hash": changed(leaves=[{"content": "a" * 63, "weight": "1"}]),
    "a leaf in capitals": changed(leaves=[{"content": A.upper(), "weight": "1"}]),
    "a leaf that is a path": changed(leaves=[{"content": "../" * 21 + "x", "weight": "1"}]),
    "a base that is no hash": changed(base="x"),
    "an empty base": changed(base=""),
    "a mask that is no hash": changed(mask=A[:-1] + "g"),
    "an unknown rule": changed(rule="median"),
    "an unknown type": changed(dtype="f8"),
    **{
        f"weight {weight}": changed(leaves=[{"content": A, "weight": weight}])
        for weight in ("0", "-1", "nan", "inf", "1/0", "x", "", "1e999999999", "1e-999999999", "9" * 5000, 1)
    },
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_record_is_refused(text: str, folder: Path) -> None:
    path = write_safetensors(folder / "a.safetensors", {"w": f32(1)}, {METADATA_KEY: text})
    with pytest.raises(InvalidData, match=r"a\.safetensors"):
        merge([path], out=folder / "out.safetensors")
    assert not (folder / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        (1, Fraction(1)),
        ("0.7", Fraction(7, 10)),
        (0.7, Fraction(7, 10)),
        (".5", Fraction(1, 2)),
        ("2/3", Fraction(2, 3)),
        (Fraction(2, 3), Fraction(2, 3)),
        (1e-07, Fraction(1, 10**7)),
        ("1E2", Fraction(100)),
        (str(MAX_WEIGHT - 1), Fraction(MAX_WEIGHT - 1)),
    ],
)
def test_weights(text: str | float | Fraction, weight: Fraction) -> None:
    assert parse_weight(text) == weight


@pytest.mark.parametrize(
    "text",
    [0, -1, "-0.5", "nan", "inf", "", " ", "1 2", "x", "1/0", "0x1", "1_0", "½", "1e100", "1e-100", str(MAX_WEIGHT)],
)
def test_no_weights(text: str | float) -> None:
    for parse in (parse_weight, given_weight):
        with pytest.raises(ValueError, match="expected a weight"):
            parse(text)


@pytest.mark.parametrize(
    ("given", "weight"),
    [
        (1 / 3, Fraction(1, 3)),
        (0.1 + 0.2, Fraction(3, 10)),
        (np.float32(0.5), Fraction(1, 2)),
        ("0.3333333333333333", Fraction(1, 3)),
        (0.2689414213699951, Fraction(0.2689414213699951)),
    ],
)
def test_weights_as_floats_have_them(given: str | float, weight: Fraction) -> None:
    assert given_weight(given) == weight


def test_weights_below_zero_are_for_sums() -> None:
    assert given_weight("-0.5", signed=True) == given_weight(-0.5, signed=True) == Fraction(-1, 2)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=9), st.booleans())
def test_weights_of_many_digits_are_rounded_together(floats: list[float], absolute: bool) -> None:
    weights = [given_weight(value) for value in floats]
    rounded, changed = fitted(weights, absolute=absolute)
    integer_weights(rounded)
    scale = Fraction(1) if absolute else sum(rounded) / sum(weights)
    assert all(
        abs(new / scale - old) <= Fraction(sum(weights), 1 << 24) for new, old in zip(rounded, weights, strict=True)
    )
    assert changed or all(new == old * rounded[0] / weights[0] for new, old in zip(rounded, weights, strict=True))


def test_a_softmax_is_a_list_of_weights(three: list[Path], folder: Path) -> None:
    """Also on a machine that computes it to another last place."""
    shares = np.exp([1.0, 2.0, 3.0]) / np.exp([1.0, 2.0, 3.0]).sum()
    report = merge(three, out=folder / "out.safetensors", weights=list(shares))
    assert report.weights_rounded
    found = np.array([float(weight) for weight in weights_of(report).values()])
    assert np.allclose(found / found.sum(), shares, rtol=0, atol=1e-7)
    assert read_recipe(read_metadata(report.out)) == report.recipe


def test_a_weight_that_would_take_hours_to_compute_is_refused() -> None:
    for text in ("1e999999999", "1e-999999999", "9" * 10**6, f"1/{'9' * 10**6}"):
        with pytest.raises(ValueError, match="expected a weight"):
            parse_weight(text)


@given(st.lists(st.sampled_from(WEIGHTS), min_size=1, max_size=6))
def test_integer_weights_are_the_weights(weights: list[Fraction]) -> None:
    integers, divisor = integer_weights(weights)
    assert [Fraction(integer, divisor) for integer in integers] == weights
    doubled, _ = integer_weights([2 * weight for weight in weights])
    assert [Fraction(x, doubled[0]) for x in doubled] == [Fraction(x, integers[0]) for x in integers]


def test_too_many_inputs_or_digits_are_refused() -> None:
    with pytest.raises(CheckpointError, match=f"at most {MAX_INPUTS}"):
        integer_weights([Fraction(1)] * (MAX_INPUTS + 1))
    with pytest.raises(CheckpointError, match="Use fewer digits"):
        integer_weights([Fraction(1, 99991), Fraction(1, 99989)])


# ---- merges of merged files ------------------------------------------------------------------------------------------


@pytest.fixture
def three(folder: Path) -> list[Path]:
    tensors = {"a": f32(1, 0, 8, 4), "b": f32(3, 2, 0, 4), "c": f32(0, 5, 0, 1)}
    return [write_safetensors(folder / f"{name}.safetensors", {"w": raw}) for name, raw in tensors.items()]


def weights_of(report: MergeReport) -> dict[str, Fraction]:
    weights = {report.leaves[leaf.content].stem: leaf.weight for leaf in report.recipe.leaves}
    return dict(sorted(weights.items()))


def test_the_weight_of_a_group_is_divided_over_its_members(three: list[Path], folder: Path) -> None:
    a, b, c = three
    ab = merge([a, b], out=folder / "ab.safetensors", weights=["0.5", "0.3"]).out
    grouped = merge([ab, c], out=folder / "1.safetensors", weights=["0.8", "0.2"])
    flat = merge(three, out=folder / "2.safetensors", weights=["0.5", "0.3", "0.2"])
    assert grouped.out.read_bytes() == flat.out.read_bytes()
    assert weights_of(flat) == {"a": 5, "b": 3, "c": 2}
    assert read_recipe(read_metadata(flat.out)) == flat.recipe == grouped.recipe
    assert read_metadata(flat.out)[CHECKSUM_KEY] == flat.checksum


def test_by_leaves_a_weight_is_that_of_each_member(three: list[Path], folder: Path) -> None:
    a, b, c = three
    ab = merge([a, b], out=folder / "ab.safetensors", weights=["0.5", "0.3"]).out
    grouped = merge([ab, c], out=folder / "1.safetensors", weights=[4, 2], by_leaves=True)
    assert weights_of(grouped) == {"a": 5, "b": 3, "c": 2}


def test_the_middle_of_a_merged_file_and_another(folder: Path) -> None:
    a, b, c = (
        write_safetensors(folder / f"{n}.safetensors", {"w": f32(v)}) for n, v in (("a", 1), ("b", 9), ("c", 17))
    )
    plain = merge([a, b], out=folder / "1.safetensors").out
    weighed = merge([a, b], out=folder / "2.safetensors", weights=[0.5, 0.5]).out
    assert plain.read_bytes() == weighed.read_bytes()
    for merged in (plain, weighed):
        for order in ([merged, c], [c, merged]):
            report = merge(order, out=folder / "out.safetensors", weights=[0.5, 0.5], force=True)
            assert values(read_safetensors(report.out)["w"]) == [11]
        assert values(read_safetensors(merge([merged, c], out=folder / "o.safetensors", force=True).out)["w"]) == [9]
    nine = merge([plain, c], out=folder / "out.safetensors", weights=[9, 1], force=True)
    assert values(read_safetensors(nine.out)["w"]) == [float(np.float32(6.2))]
    assert merge([plain, weighed], out=folder / "out.safetensors", force=True).out.read_bytes() == plain.read_bytes()


def test_a_weighed_merge_counts_as_many_as_it_has_members(three: list[Path], folder: Path) -> None:
    a, b, c = three
    ab = merge([a, b], out=folder / "ab.safetensors", weights=[3, 1]).out
    assert weights_of(merge([ab, c], out=folder / "1.safetensors")) == {"a": 3, "b": 1, "c": 2}
    assert weights_of(merge([ab], out=folder / "2.safetensors")) == {"a": 3, "b": 1}


def test_given_weights_of_one_checkpoint_add_up(three: list[Path], folder: Path) -> None:
    a, b, _ = three
    copy = write_safetensors(folder / "copy.safetensors", read_safetensors(a), {"other": "words"})
    ab = merge([a, b], out=folder / "ab.safetensors").out
    report = merge([a, copy, b], out=folder / "1.safetensors", weights=[1, 2, 3])
    assert weights_of(report) == {"a": 1, "b": 1}
    assert report.copies == {str(copy): str(a)}
    assert weights_of(merge([ab, a], out=folder / "2.safetensors", weights=[1, 1])) == {"a": 3, "b": 1}
    for weights, expected in (([0.1, 1], "11/10"), (None, "1")):
        report = merge([a, copy], out=folder / "3.safetensors", weights=weights, rule="sum", force=True)
        assert weights_of(report) == {"a": Fraction(expected)}


def test_a_merge_alone_is_itself(three: list[Path], folder: Path) -> None:
    made = merge(three, out=folder / "1.safetensors", rule="mean", dtype="bf16")
    for again in ([made.out], [made.out, made.out], [made.out, *three], [three[2], made.out]):
        out = merge(again, out=folder / "2.safetensors", force=True).out
        assert out.read_bytes() == made.out.read_bytes()


def test_one_checkpoint_with_two_weights_in_what_was_merged_is_refused(three: list[Path], folder: Path) -> None:
    a, b, _ = three
    merge([a, b], out=folder / "ab.safetensors", weights=[2, 1])
    with pytest.raises(
        CheckpointError, match=r"a\.safetensors comes twice, with the weights .* give every input a weight"
    ):
        merge([folder / "ab.safetensors", a], out=folder / "out.safetensors")
    merge([folder / "ab.safetensors", a], out=folder / "out.safetensors", weights=[3, 1])


def test_merges_by_different_rules_are_not_merged(three: list[Path], folder: Path) -> None:
    a, b, c = three
    merge([a, b], out=folder / "1.safetensors", rule="sum")
    merge([b, c], out=folder / "2.safetensors", rule="mean")
    pair = [folder / "1.safetensors", folder / "2.safetensors"]
    with pytest.raises(CheckpointError, match=r"rule (sum|mean), the other with rule|made with rule"):
        merge(pair, out=folder / "out.safetensors")
    with pytest.raises(CheckpointError, match="made with rule"):
        merge(pair[:1], out=folder / "out.safetensors", rule="mean")
    assert not (folder / "out.safetensors").exists()
    as_is = merge(pair, out=folder / "out.safetensors", as_is=True)
    assert values(read_safetensors(as_is.out)["w"]) == [2.75, 2.75, 8, 5.25]
    assert set(as_is.leaves.values()) == set(pair)


def test_base_and_mask_of_a_merge_are_found_again(three: list[Path], folder: Path) -> None:
    base = write_safetensors(folder / "base.safetensors", {"w": f32(1, 1, 1, 1)})
    mask = write_safetensors(folder / "mask.safetensors", {"w": f32(0, 0, 0, 1)})
    extras = {"base": base, "mask_from": mask}
    flat = merge(three, out=folder / "flat.safetensors", **extras)
    merge(three[:2], out=folder / "ab.safetensors", **extras)
    grouped = merge([folder / "ab.safetensors", three[2]], out=folder / "grouped.safetensors")
    assert grouped.out.read_bytes() == flat.out.read_bytes()
    base.write_bytes(base.read_bytes())  # the same, and nobody has looked since
    with pytest.raises(CheckpointError, match=f"a base of content {flat.recipe.base}. Give it with --base"):
        merge([folder / "ab.safetensors", three[2]], out=folder / "grouped.safetensors", force=True)
    merge([folder / "ab.safetensors", three[2]], out=folder / "grouped.safetensors", force=True, base=base)
    assert grouped.out.read_bytes() == flat.out.read_bytes()
    with pytest.raises(CheckpointError, match=r"made with base .* one base"):
        merge([folder / "ab.safetensors", three[2]], out=folder / "out.safetensors", base=mask, mask_from=mask)


def test_leaves_that_are_gone_are_named(three: list[Path], folder: Path) -> None:
    a, b, c = three
    made = merge([a, b], out=folder / "ab.safetensors")
    moved = a.rename(folder / "moved.safetensors")
    content = next(content for content, path in made.leaves.items() if path == a)
    with pytest.raises(
        CheckpointError, match=f"1 of 3 are not where .*{content}.*further inputs; a merge can also .*--as-is"
    ):
        merge([made.out, c], out=folder / "out.safetensors")
    found = merge([made.out, c, moved], out=folder / "out.safetensors")
    assert found.leaves[content] == moved


def test_leaves_are_found_where_the_cache_was_lost(
    three: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = merge(three, out=folder / "flat.safetensors")
    made = merge(three[:2], out=folder / "ab.safetensors")
    monkeypatch.setenv(CACHE_VARIABLE, str(folder / "empty"))
    with pytest.raises(CheckpointError, match="2 of 3 are not where this machine saw them"):
        merge([made.out, three[2]], out=folder / "out.safetensors")
    assert merge([made.out, *three], out=folder / "out.safetensors").out.read_bytes() == flat.out.read_bytes()


def test_a_merge_that_was_changed_does_not_stand_for_its_leaves(three: list[Path], folder: Path) -> None:
    made = merge(three[:2], out=folder / "ab.safetensors")
    data = bytearray(made.out.read_bytes())
    data[-1] ^= 1
    made.out.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"ab\.safetensors was merged from 2 files and changed .*--as-is"):
        merge([made.out, three[2]], out=folder / "out.safetensors")
    report = merge([made.out, three[2]], out=folder / "out.safetensors", as_is=True)
    assert len(report.leaves) == 2


# ---- what is carried along -------------------------------------------------------------------------------------------


def carried(report: MergeReport) -> dict[str, str]:
    return {k: v for k, v in read_metadata(report.out).items() if k not in (METADATA_KEY, CHECKSUM_KEY)}


def test_what_all_inputs_say_is_carried_however_they_are_grouped(folder: Path) -> None:
    words = [
        {"model": "m", "step": "1", "z": "z", "a": "a"},
        {"a": "a", "z": "z", "step": "2", "model": "m"},
        {"z": "z", "model": "m", "own": "x"},
    ]
    paths = [write_safetensors(folder / f"{i}.safetensors", {"w": f32(i)}, said) for i, said in enumerate(words)]
    silent = write_safetensors(folder / "silent.safetensors", {"w": f32(0)})  # a copy of the first
    flat = merge(paths, out=folder / "flat.safetensors")
    assert carried(flat) == {"format": "pt", "model": "m", "z": "z"}
    for order in ([*paths, silent], [silent, *paths], [silent, paths[2], paths[0], paths[1]]):
        assert merge(order, out=folder / "out.safetensors", force=True).out.read_bytes() == flat.out.read_bytes()
    merge([silent, paths[0], paths[1]], out=folder / "pair.safetensors")
    paths[0].unlink()  # so that its leaf is found at the copy
    grouped = merge([folder / "pair.safetensors", paths[2]], out=folder / "out.safetensors", force=True)
    assert grouped.out.read_bytes() == flat.out.read_bytes()


def test_copies_that_contradict_each_other_say_nothing(folder: Path) -> None:
    words = [{"step": "1", "z": "z"}, {"step": "2", "z": "z"}]
    a, copy = (write_safetensors(folder / f"{i}.safetensors", {"w": f32(0)}, said) for i, said in enumerate(words))
    b = write_safetensors(folder / "b.safetensors", {"w": f32(1)}, words[0])
    for number, order in enumerate(([a, copy, b], [copy, a, b], [b, copy, a])):
        assert carried(merge(order, out=folder / f"out{number}.safetensors")) == {"format": "pt", "z": "z"}


def test_a_format_that_all_inputs_name_is_kept(folder: Path) -> None:
    paths = [write_safetensors(folder / f"{i}.safetensors", {"w": f32(i)}, {"format": "mlx"}) for i in range(2)]
    assert carried(merge(paths, out=folder / "out.safetensors")) == {"format": "mlx"}
