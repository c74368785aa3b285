"""Checkpoints as people have them: each was a merge that ended in something its user would not accept."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from spikemesh.checkpoint import MergeReport, inspect, merge, verify
from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.kernels import ELEMENTS
from tests.checkpoint import reference
from tests.checkpoint.files import (
    Raw,
    Tensors,
    f32,
    i64,
    read_safetensors,
    torch_tensors,
    values,
    write_safetensors,
    write_torch,
)

NAN, INF = math.nan, math.inf


def write(folder: Path, **inputs: Tensors) -> list[Path]:
    return [write_safetensors(folder / f"{name}.safetensors", tensors) for name, tensors in inputs.items()]


def bf16(*numbers: float) -> Raw:
    return Raw("BF16", (len(numbers),), (np.array(numbers, "<f4").view("<u4") >> 16).astype("<u2").tobytes())


def merged(folder: Path, inputs: list[Path], **options: object) -> tuple[MergeReport, Tensors]:
    """A merge in both orders, whose bytes are the same, and that can be verified."""
    out = folder / "merged.safetensors"
    report = merge(inputs, out=out, force=True, **options)  # type: ignore[arg-type]
    whole = out.read_bytes()
    if "weights" not in options and not any("=1" in text for text in options.get("take", ())):  # type: ignore[attr-defined]
        merge(inputs[::-1], out=out, force=True, **options)  # type: ignore[arg-type]
        assert out.read_bytes() == whole
    assert verify(out, inputs, base=options.get("base")).differences == ()  # type: ignore[arg-type]
    return report, read_safetensors(out)


# ---- names -----------------------------------------------------------------------------------------------------------

LAYER = {"fc.weight": f32(1, 1), "fc.bias": f32(1)}
TRIPLE = {"fc.weight": f32(3, 3), "fc.bias": f32(3)}


def prefixed(prefix: str, tensors: Tensors) -> dict[str, Raw]:
    return {prefix + name: raw for name, raw in tensors.items()}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "state_dict.", "model.", "net."])
def test_what_a_wrapper_puts_before_names_is_taken_off_and_said(folder: Path, prefix: str) -> None:
    paths = write(folder, plain=LAYER, wrapped=prefixed(prefix, TRIPLE))
    report, result = merged(folder, paths)
    assert {name: values(raw) for name, raw in result.items()} == {"fc.weight": [2, 2], "fc.bias": [2]}
    assert [(path, r.old, r.new) for path, r in report.respelled.items()] == [(str(paths[1]), prefix, "")]
    assert not report.partly_held


def test_a_state_dict_inside_of_a_trainer_s_is_found(folder: Path) -> None:
    plain = write_torch(folder / "plain.pt", dict(zip(LAYER, torch_tensors(LAYER)["fc"].values(), strict=True)))  # type: ignore[attr-defined]
    nested = write_torch(
        folder / "nested.pt",
        {
            "net": dict(zip(TRIPLE, torch_tensors(TRIPLE)["fc"].values(), strict=True)),  # type: ignore[attr-defined]
            "optimizer": {"m": torch_tensors({"x": f32(5)})["x"], "v": torch_tensors({"x": f32(5)})["x"]},
            "epoch": 4,
        },
    )
    report, result = merged(folder, [plain, nested])
    assert values(result["fc.weight"]) == [2, 2]
    assert set(report.partly_held) == {"optimizer.m", "optimizer.v"}
    assert report.left_out == {str(nested): ("epoch",)}


def test_a_compiled_part_of_a_model(folder: Path) -> None:
    inside = {"fc._orig_mod.weight": f32(3, 3), "fc._orig_mod.bias": f32(3)}
    report, result = merged(folder, write(folder, plain=LAYER, compiled=inside))
    assert values(result["fc.weight"]) == [2, 2] and not report.partly_held


def test_a_model_with_a_head_names_one_without(folder: Path) -> None:
    """`model.` is the model's own there, and the result loads where the larger one does."""
    whole = {"model.a.weight": f32(1), "model.b.weight": f32(1), "lm_head.weight": f32(9)}
    _, result = merged(folder, write(folder, whole=whole, body={"a.weight": f32(3), "b.weight": f32(3)}))
    assert {name: values(raw) for name, raw in result.items()} == {
        "model.a.weight": [2],
        "model.b.weight": [2],
        "lm_head.weight": [9],
    }


def test_names_that_agree_are_left_alone(folder: Path) -> None:
    _, result = merged(folder, write(folder, a=prefixed("module.", LAYER), b=prefixed("module.", TRIPLE)))
    assert sorted(result) == ["module.fc.bias", "module.fc.weight"]


def test_inputs_that_share_no_name_are_refused_with_a_guess(folder: Path) -> None:
    a, b, c = write(folder, a=LAYER, b=TRIPLE, c=prefixed("bert.", LAYER))
    with pytest.raises(CheckpointError, match=r"c\.safe.* shares no tensor's name .*bert\.fc\.bias.*'bert\.' a prefix"):
        merge([a, b, c], out=folder / "out.safetensors")
    report = merge([a, c], out=folder / "out.safetensors", disjoint=True)
    assert len(report.partly_held) == 4
    assert verify(report.out, []).differences == ()  # type: ignore[arg-type]


def test_a_counter_in_common_is_no_part(folder: Path) -> None:
    a, b = write(folder, a={"w": f32(1), "step": i64(3)}, b={"v": f32(1), "step": i64(3)})
    with pytest.raises(CheckpointError, match="shares no tensor's name"):
        merge([a, b], out=folder / "out.safetensors")


def test_an_input_without_tensors_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"b\.safetensors holds no tensors"):
        merge(write(folder, a=LAYER, b={}), out=folder / "out.safetensors")


# ---- a base ----------------------------------------------------------------------------------------------------------


def test_a_base_with_a_prefix_is_the_base(folder: Path) -> None:
    base, *inputs = write(folder, base={"model.w": f32(1, 2, 3, 4)}, a={"w": f32(1, 2, 3, 8)}, b={"w": f32(1, 6, 3, 4)})
    report, result = merged(folder, inputs, base=base)
    assert values(result["w"]) == [1, 6, 3, 8]
    assert report.respelled[str(base)].old == "model."


def test_a_base_or_mask_of_another_model_is_refused(folder: Path) -> None:
    a, b, other = write(folder, a=LAYER, b=TRIPLE, other={"conv.kernel": f32(1)})
    for option in ("base", "mask_from"):
        with pytest.raises(CheckpointError, match=r"other\.safetensors shares no tensor's name with the inputs"):
            merge([a, b], out=folder / "out.safetensors", **{option: other})  # type: ignore[arg-type]


def test_what_only_the_base_has_is_kept_and_said(folder: Path) -> None:
    frozen = f32(1, -0.0, NAN)
    base, *inputs = write(folder, base={"w": f32(1, 1), "frozen": frozen}, a={"w": f32(2, 2)}, b={"w": f32(3, 3)})
    report, result = merged(folder, inputs, base=base)
    assert result["frozen"] == frozen
    assert values(result["w"]) == [2.5, 2.5]
    assert report.from_base == ("frozen",)
    _, narrow = merged(folder, inputs, base=base, dtype="bf16")
    assert narrow["frozen"] == Raw("BF16", (3,), b"\x80\x3f\0\0\xc0\x7f")


def test_a_base_may_be_added_to_backwards(folder: Path) -> None:
    base, a, b = write(folder, base={"w": f32(1, 1)}, a={"w": f32(3, 1)}, b={"w": f32(1, 5)})
    report = merge([a, b], out=folder / "out.safetensors", base=base, rule="sum", weights=["-1", "0.5"])
    assert values(read_safetensors(report.out)["w"]) == [-1, 3]
    assert verify(report.out, [a, b], base=base).differences == ()
    difference = merge([a, b, base], out=folder / "d.safetensors", rule="sum", weights=[1, 1, -1])
    assert values(read_safetensors(difference.out)["w"]) == [3, 5]
    with pytest.raises(ValueError, match="rule sum"):
        merge([a, b], out=folder / "d.safetensors", rule="mean", weights=[1, -1], force=True)
    with pytest.raises(ValueError, match="negative weights need the rule sum"):
        merge([a, b], out=folder / "d.safetensors", weights=[1, -1], force=True)


# ---- integers --------------------------------------------------------------------------------------------------------


def test_counters_that_differ_do_not_stop_a_merge(folder: Path) -> None:
    """BatchNorm's, after other numbers of steps."""
    a, b = write(
        folder,
        a={"bn.weight": f32(1), "bn.num_batches_tracked": Raw("I64", (), (3).to_bytes(8, "little"))},
        b={"bn.weight": f32(3), "bn.num_batches_tracked": Raw("I64", (), (5).to_bytes(8, "little"))},
    )
    report, result = merged(folder, [a, b])
    assert values(result["bn.weight"]) == [2] and values(result["bn.num_batches_tracked"]) == [5]
    assert report.chosen_integers == {"bn.num_batches_tracked": 1}
    with pytest.raises(CheckpointError, match=r"--integers max or first.*--take.*--skip"):
        merge([a, b], out=folder / "out.safetensors", integers="refuse")


def test_other_integers_are_chosen_only_if_that_is_asked_for(folder: Path) -> None:
    a, b = write(folder, a={"w": f32(1), "ids": i64(3, 1, 7)}, b={"w": f32(2), "ids": i64(2, 5, 7)})
    with pytest.raises(CheckpointError, match="'ids' differs"):
        merge([a, b], out=folder / "out.safetensors")
    report, result = merged(folder, [a, b], integers="max")
    assert values(result["ids"]) == [3, 5, 7] and report.chosen_integers == {"ids": 2}
    smallest = min((inspect(path).content, path) for path in (a, b))[1]
    _, result = merged(folder, [a, b], integers="first")
    assert result["ids"] == read_safetensors(smallest)["ids"]


def test_integers_that_differ_are_found_before_the_floats_are_read(folder: Path) -> None:
    a, b = write(folder, a={"a": f32(NAN), "z": i64(1, 2)}, b={"a": f32(1), "z": i64(1, 3)})
    with pytest.raises(CheckpointError, match="'z' differs"):
        merge([a, b], out=folder / "out.safetensors", num_threads=1)


# ---- leaving out, taking, weighing -----------------------------------------------------------------------------------


def test_recorded_state_of_another_batch_is_left_out(folder: Path) -> None:
    a, b = write(
        folder,
        a={"fc.weight": f32(1), "lif1.mem": f32(1, 2), "lif2.mem": f32(1, 2)},
        b={"fc.weight": f32(3), "lif1.mem": f32(1), "lif2.mem": f32(1)},
    )
    with pytest.raises(CheckpointError, match=r"'lif1\.mem' is F32 \[2\] .*--skip PATTERN.*--take PATTERN=INPUT"):
        merge([a, b], out=folder / "out.safetensors")
    report, result = merged(folder, [a, b], skip=["*.mem"])
    assert values(result["fc.weight"]) == [2] and set(result) == {"fc.weight"}
    assert report.skipped == ("lif1.mem", "lif2.mem")
    with pytest.raises(CheckpointError, match=r"no tensor's name matches '\*\.men'"):
        merge([a, b], out=folder / "out.safetensors", skip=["*.men"])


def test_tensors_from_one_input(folder: Path) -> None:
    base, a, b = write(
        folder,
        base={"emb": f32(7), "w": f32(0), "head": f32(0)},
        a={"emb": f32(1), "w": f32(2), "head": f32(-0.0)},
        b={"emb": f32(3), "w": f32(4), "head": f32(5, 5)},
    )
    _, result = merged(folder, [a, b], take=["emb=b.safetensors", f"head={a}"])
    assert values(result["emb"]) == [3] and values(result["w"]) == [3]
    assert result["head"] == f32(-0.0)
    _, result = merged(folder, [a, b], base=base, take=["emb=base", "head=a"])
    assert values(result["emb"]) == [7] and values(result["w"]) == [3]
    for take, words in (("emb", "PATTERN=INPUT"), ("emb=c", "one of a.safetensors"), ("emb=base", "got 'base'")):
        with pytest.raises(ValueError, match=words):
            merge([a, b], out=folder / "out.safetensors", take=[take, "head=1"])


def test_taken_from_a_merged_file_is_what_it_holds(folder: Path) -> None:
    a, b, c = write(folder, a={"e": f32(1), "w": f32(1)}, b={"e": f32(3), "w": f32(3)}, c={"e": f32(9), "w": f32(8)})
    ab = merge([a, b], out=folder / "ab.safetensors").out
    report = merge([ab, c], out=folder / "out.safetensors", take=["e=ab"])
    result = read_safetensors(report.out)
    assert values(result["e"]) == [2] and values(result["w"]) == [4]
    assert verify(report.out, [a, b, c]).differences == ()


def test_the_weight_of_one_input_in_some_tensors(folder: Path) -> None:
    a, b = write(folder, a={"x": f32(0.5), "y": f32(0.5)}, b={"x": f32(4.5), "y": f32(4.5)})
    report = merge([a, b], out=folder / "1.safetensors", weights=[0.5, 0.5], weight_of=["a.safetensors:x=1.5"])
    result = read_safetensors(report.out)
    assert values(result["x"]) == [1.5] and values(result["y"]) == [2.5]
    assert verify(report.out, [b, a]).differences == ()
    report = merge([a, b], out=folder / "2.safetensors", weight_of=["b:y=0"])
    assert values(read_safetensors(report.out)["y"]) == [0.5]


def test_an_option_goes_on_in_later_merges(folder: Path) -> None:
    a, b, c = write(folder, **{n: {"w": f32(i), "s": f32(i)} for i, n in enumerate("abc", 1)})
    ab = merge([a, b], out=folder / "ab.safetensors", skip=["s"]).out
    grouped = merge([ab, c], out=folder / "abc.safetensors").out
    assert grouped.read_bytes() == merge([a, b, c], out=folder / "flat.safetensors", skip=["s"]).out.read_bytes()
    other = merge([b, c], out=folder / "bc.safetensors").out
    with pytest.raises(CheckpointError, match="made with skip"):
        merge([ab, other], out=folder / "out.safetensors")
    merge([ab, other], out=folder / "out.safetensors", skip=["s"])


def test_passthrough_takes_each_tensor_from_one_input(folder: Path) -> None:
    a, b = write(folder, a={"w": f32(1), "v": f32(NAN)}, b={"w": f32(2), "u": f32(3)})
    with pytest.raises(CheckpointError, match="'w' is in 2 inputs"):
        merge([a, b], out=folder / "out.safetensors", rule="passthrough")
    _, result = merged(folder, [a, b], rule="passthrough", take=["w=b"])
    assert (values(result["w"]), values(result["u"])) == ([2], [3]) and result["v"] == f32(NAN)


def test_dare_is_refused_with_a_reason() -> None:
    with pytest.raises(ValueError, match="no rule here draws random numbers"):
        merge(["a"], out="b", rule="dare_ties")


# ---- types -----------------------------------------------------------------------------------------------------------


def test_types_that_differ_are_merged_when_the_result_s_is_said(folder: Path) -> None:
    a, b = write(folder, a={"w": bf16(0, 1, 2, 3)}, b={"w": f32(1, 2, 3, 4)})
    with pytest.raises(CheckpointError, match=r"BF16 \[4\] in .*Say the type of the result \(--dtype f32\)"):
        merge([a, b], out=folder / "out.safetensors")
    _, result = merged(folder, [a, b], dtype="f32", rule="mean")
    assert result["w"] == f32(0.5, 1.5, 2.5, 3.5)


@pytest.mark.parametrize("one", sorted(reference.FORMATS.keys() - {"F64"}))
@pytest.mark.parametrize("other", ["F64", "F32", "BF16"])
def test_every_number_of_a_narrow_type_counts_in_a_wide_one(folder: Path, one: str, other: str) -> None:
    form = reference.FORMATS[one]
    step = 1 if form.num_bytes == 1 else (1 << (8 * form.num_bytes)) // 500 + 1
    bits = [x for x in range(0, 1 << (8 * form.num_bytes), step) if form.is_finite(x)]
    numbers = b"".join(x.to_bytes(form.num_bytes, "little") for x in bits)
    zeros = bytes(len(bits) * reference.FORMATS[other].num_bytes)
    a, b = write(folder, a={"w": Raw(one, (len(bits),), numbers)}, b={"w": Raw(other, (len(bits),), zeros)})
    report = merge([a, b], out=folder / "out.safetensors", dtype="f32")
    assert read_safetensors(report.out)["w"].data == reference.encode("F32", reference.decode(one, numbers))


def test_8_bit_floats_under_other_scales_are_refused(folder: Path) -> None:
    codes = Raw("F8_E4M3", (2,), b"\x38\x40")
    for scale in ("p.weight_scale", "p.weight_scale_inv", "p.scale_weight", "p.weight.scale"):
        a, b, c = write(
            folder,
            a={"p.weight": codes, scale: f32(1)},
            b={"p.weight": Raw("F8_E4M3", (2,), b"\x3c\x40"), scale: f32(2)},
            c={"p.weight": Raw("F8_E4M3", (2,), b"\x40\x40"), scale: f32(1)},
        )
        with pytest.raises(CheckpointError, match=rf"'p.weight' by '{scale}'.*mean of such codes.*--take"):
            merge([a, b], out=folder / "out.safetensors")
        _, result = merged(folder, [a, b], take=["p.*=b"])
        assert result["p.weight"].data == b"\x3c\x40"
        _, result = merged(folder, [a, c])
        assert result["p.weight"].data == b"\x3c\x40"  # 1 and 2 are 1.5


# ---- not finite ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["keep", "bf16", "f16"])
def test_what_is_not_finite_everywhere_alike_is_kept(folder: Path, dtype: str) -> None:
    a, b = write(folder, a={"m": f32(0, -INF, NAN, INF), "w": f32(1)}, b={"m": f32(2, -INF, NAN, INF), "w": f32(3)})
    report, result = merged(folder, [a, b], dtype=dtype)
    bits = result["m"].data
    if dtype == "keep":
        assert bits == f32(2, -INF, NAN, INF).data
    else:
        assert bits == {"bf16": b"\0\x40\x80\xff\xc0\x7f\x80\x7f", "f16": b"\0\x40\0\xfc\0\x7e\0\x7c"}[dtype]
    assert report.non_finite == {"m": 3}
    assert report.num_nonzero == 5
    merged(folder, [a])
    merged(folder, [a, b], base=a)


def test_what_is_not_finite_and_differs_is_refused_or_spread(folder: Path) -> None:
    a, b = write(folder, a={"m": f32(1, INF, INF, 1, NAN)}, b={"m": f32(3, INF, -INF, -INF, 1)})
    with pytest.raises(InvalidData, match=r"a\.safetensors has NaN .* 'm', at element 2.*--skip.*--allow-non-finite"):
        merge([a, b], out=folder / "out.safetensors")
    report, result = merged(folder, [a, b], allow_non_finite=True)
    found = np.frombuffer(result["m"].data, "<f4")
    assert found[:2].tolist() == [2, INF] and math.isnan(found[2]) and found[3] == -INF and math.isnan(found[4])
    assert report.non_finite == {"m": 4}


@pytest.mark.parametrize("element", sorted(reference.FORMATS))
def test_every_type_keeps_its_own_nan(folder: Path, element: str) -> None:
    form = reference.FORMATS[element]
    width = ELEMENTS[element].size_bytes
    bits = [form.largest + 1, (1 << (8 * width - 1)) - 1, (1 << (8 * width)) - 1, 0]
    a, b = write(
        folder, **{n: {"w": Raw(element, (4,), b"".join(x.to_bytes(width, "little") for x in bits))} for n in "ab"}
    )
    write_safetensors(b, {**read_safetensors(b), "v": f32(1)})
    _, result = merged(folder, [a, b])
    assert result["w"] == read_safetensors(a)["w"]


# ---- heads -----------------------------------------------------------------------------------------------------------


def test_a_tied_head_beside_an_untied_one_is_refused(folder: Path) -> None:
    embedding = f32(1, 2, shape=(2, 1))
    a, b = write(
        folder,
        a={"model.embed_tokens.weight": embedding, "lm_head.weight": f32(5, 6, shape=(2, 1))},
        b={"model.embed_tokens.weight": f32(3, 4, shape=(2, 1))},
    )
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' is not in .*b\.safe.*tie_word_embeddings.*--skip"):
        merge([a, b], out=folder / "out.safetensors")
    report, _ = merged(folder, [a, b], skip=["lm_head.weight"])
    assert report.skipped == ("lm_head.weight",)
    merged(folder, [a, b], take=["lm_head.weight=a"])


# ---- slerp -----------------------------------------------------------------------------------------------------------


def test_slerp(folder: Path) -> None:
    rng = np.random.default_rng(3)
    x, y = (rng.normal(size=1000).astype("<f4") for _ in range(2))
    a, b = write(folder, **{n: {"w": Raw("F32", (1000,), v.tobytes())} for n, v in (("a", x), ("b", y))})
    report = merge([a, b], out=folder / "1.safetensors", rule="slerp", weights=[0.7, 0.3])
    p, q = x.astype(float), y.astype(float)
    angle = np.arccos(p @ q / np.linalg.norm(p) / np.linalg.norm(q))
    expected = (np.sin(0.7 * angle) * p + np.sin(0.3 * angle) * q) / np.sin(angle)
    assert np.allclose(np.frombuffer(read_safetensors(report.out)["w"].data, "<f4"), expected, atol=1e-6)
    swapped = merge([b, a], out=folder / "2.safetensors", rule="slerp", weights=[0.3, 0.7], num_threads=1)
    assert swapped.out.read_bytes() == report.out.read_bytes()
    assert verify(report.out, [a, b]).differences == ()
    (c,) = write(folder, c={"w": Raw("F32", (1000,), bytes(4000))})
    with pytest.raises(ValueError, match="slerp goes from one checkpoint to one other"):
        merge([a, b, c], out=folder / "3.safetensors", rule="slerp")


# ---- in memory -------------------------------------------------------------------------------------------------------


def test_state_dicts_in_memory(folder: Path) -> None:
    one, two = {"w": np.float32([1, 0]), "n": np.array(3)}, {"w": np.float32([3, 4]), "n": np.array(5)}
    report = merge([one, two], out=None)
    assert report.out is None and report.tensors is not None
    assert report.tensors["w"].tolist() == [2, 4] and report.tensors["n"] == 5
    (c,) = write(folder, c={"w": f32(5, 4)})
    assert merge([one, c], out=None).tensors["w"].tolist() == [3, 4]  # type: ignore[index]
    mixed = merge([one, two, c], out=folder / "out.safetensors")
    assert values(read_safetensors(mixed.out)["w"]) == [3, 4]
    with pytest.raises(CheckpointError, match="NumPy has no BF16"):
        merge([one, two], out=None, dtype="bf16")
    with pytest.raises(ValueError, match="expected numbers"):
        merge([{"w": "text"}], out=None)


def test_torch_state_dicts_in_memory() -> None:
    import torch

    layers = [torch.nn.Linear(2, 2).bfloat16() for _ in range(2)]
    tensors = merge([layer.state_dict() for layer in layers], out=None, rule="mean").tensors
    assert tensors is not None and tensors["weight"].dtype == torch.bfloat16
    exact = (layers[0].weight.double() + layers[1].weight.double()) / 2
    assert torch.equal(tensors["weight"], exact.bfloat16())
    layers[0].load_state_dict(tensors)


# ---- files that are no checkpoints -----------------------------------------------------------------------------------


def test_the_object_that_stops_a_pickle_is_named(folder: Path) -> None:
    import argparse

    path = write_torch(folder / "a.pt", {"model": {"w": 1}, "args": argparse.Namespace(lr=0.1)})
    with pytest.raises(InvalidData, match=r"it holds a Python object: argparse\.Namespace\)\. Load it") as caught:
        inspect(path)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a git-lfs pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        (b"GGUF\3\0\0\0", "a GGUF file"),
        (b"\x1f\x8b\x08\0", "a packed archive"),
    ],
)
def test_what_people_have_in_the_place_of_a_checkpoint(folder: Path, start: bytes, words: str) -> None:
    (folder / "a.safetensors").write_bytes(start)
    with pytest.raises(InvalidData, match=rf"a\.safetensors is {words}"):
        inspect(folder / "a.safetensors")


def test_files_of_early_torch_are_read_by_the_restricted_reader(folder: Path) -> None:
    import argparse

    import torch

    layers = [torch.nn.Linear(3, 2).state_dict() for _ in range(2)]
    paths = [folder / f"{i}.pt" for i in range(2)]
    for layer, path in zip(layers, paths, strict=True):
        torch.save(layer, path, _use_new_zipfile_serialization=False)
    _, result = merged(folder, paths, rule="mean")
    exact = (layers[0]["weight"].double() + layers[1]["weight"].double()) / 2
    assert np.frombuffer(result["weight"].data, "<f4").tolist() == exact.float().flatten().tolist()
    torch.save(argparse.Namespace(lr=1), paths[0], _use_new_zipfile_serialization=False)
    with pytest.raises(InvalidData, match=r"argparse\.Namespace"):
        inspect(paths[0])


def test_one_text_in_the_place_of_several_is_refused() -> None:
    state = {"w": np.ones(2, np.float32)}
    for one in ("a.safetensors", state):
        with pytest.raises(ValueError, match="expected a list of inputs, got one"):
            merge(one, out=None)  # type: ignore[arg-type]
    for name in ("skip", "take", "weight_of"):
        with pytest.raises(ValueError, match=f"expected a list of texts as {name}"):
            merge([state], out=None, **{name: "*.mem"})  # type: ignore[arg-type]


def test_a_tensor_without_values_is_refused() -> None:
    import torch

    with pytest.raises(InvalidData, match=r"expected a dense tensor .* got .* meta"):
        merge([{"w": torch.empty(2, device="meta")}], out=None)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("x.q.lora_A.weight", "x.q.lora_B.weight"),
        ("q.lora_embedding_A", "q.lora_embedding_B"),
        ("lora_unet_q.lora_down.weight", "lora_unet_q.lora_up.weight"),
        ("q.lora.down.weight", "q.lora.up.weight"),
    ],
)
def test_factors_without_their_configuration_are_not_averaged(folder: Path, a: str, b: str) -> None:
    paths = write(folder, one={a: f32(1, 2), b: f32(3), "w": f32(1)}, two={a: f32(4, 4), b: f32(1), "w": f32(3)})
    with pytest.raises(CheckpointError, match=r"factors of a LoRA.*--take.*--skip"):
        merge(paths, out=folder / "out.safetensors")
    assert not (folder / "out.safetensors").exists()
    _, result = merged(folder, paths, take=[f"{a}=1"])  # with one of them alike, the mean of the other is right
    assert values(result[b]) == [2] and values(result[a]) == [1, 2]
    assert values(merged(folder, paths, skip=["*lora*"])[1]["w"]) == [2]
