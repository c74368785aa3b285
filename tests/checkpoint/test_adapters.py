"""Adapters merged into a base and out again: the exact values, the same bytes by every way, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from spikemesh.checkpoint import inspect, open_checkpoint, verify
from spikemesh.checkpoint import merge as merge_checkpoints
from spikemesh.checkpoint.adapters import (
    AdapterReport,
    merge_adapters,
    preview_adapters,
    preview_stack,
    stack_adapters,
    unmerge,
)
from spikemesh.checkpoint.adapters.remainder import remainder_path
from spikemesh.checkpoint.known import CACHE_VARIABLE
from spikemesh.checkpoint.output import Output
from spikemesh.errors import CheckpointError, InvalidData, StoreError
from tests.checkpoint.adapter_folders import SHAPES, Matrix, write_adapter, write_base

WEIGHTS = ("0.7", "-1", "2/3", "1")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.fixture
def adapters(tmp_path: Path) -> list[Path]:
    """Four, of different ranks, scales and types."""
    write_base(tmp_path / "base.safetensors")
    folders = [tmp_path / f"adapter{i}" for i in range(4)]
    write_adapter(folders[0], seed=1, rank=4, alpha=16)
    write_adapter(folders[1], seed=2, rank=3, alpha=8, use_rslora=True, dtype=np.float16)
    write_adapter(folders[2], seed=3, rank=5, alpha=7, alpha_pattern={"k_proj": 3})
    write_adapter(folders[3], seed=4, rank=2, shapes={"l.q_proj.weight": SHAPES["l.q_proj.weight"]}, dtype=np.float64)
    return folders


def merge(adapters: list[Path], out: str, weights: Any = WEIGHTS, **options: Any) -> AdapterReport:
    folder = adapters[0].parent
    return merge_adapters(adapters, base=folder / "base.safetensors", out=folder / out, weights=weights, **options)


def exact(base: Matrix, terms: list[tuple[Fraction, Matrix, Matrix]]) -> list[list[Fraction]]:
    """base + sum of coefficient * B @ A, element by element."""
    rows, columns = base.shape
    return [
        [
            Fraction(float(base[i, j]))
            + sum(
                (
                    c * Fraction(float(b[i, k])) * Fraction(float(a[k, j]))
                    for c, b, a in terms
                    for k in range(a.shape[0])
                ),
                Fraction(),
            )
            for j in range(columns)
        ]
        for i in range(rows)
    ]


def test_the_result_is_the_exact_sum_rounded_once(adapters: list[Path]) -> None:
    merge(adapters, "out.safetensors")
    base, out = (load_file(adapters[0].parent / name) for name in ("base.safetensors", "out.safetensors"))
    scales = {
        "l.q_proj.weight": (16 / 4, 8 / math.sqrt(3), 7 / 5, 8 / 2),
        "l.k_proj.weight": (16 / 4, 8 / math.sqrt(3), 3 / 5),
    }
    for name, by_adapter in scales.items():
        module = "base_model.model." + name.removesuffix(".weight")
        terms = []
        for folder, weight, scale in zip(adapters, WEIGHTS, by_adapter, strict=False):
            factors = load_file(folder / "adapter_model.safetensors")
            a, b = factors[f"{module}.lora_A.weight"], factors[f"{module}.lora_B.weight"]
            terms.append((Fraction(weight) * Fraction(scale), b, a))
        wanted = exact(base[name], terms)
        for i, row in enumerate(wanted):
            for j, value in enumerate(row):
                seen = out[name][i, j]
                step = Fraction(float(np.spacing(np.abs(seen)))) / 2
                assert abs(Fraction(float(seen)) - value) <= step, (name, i, j)
    for name in ("norm.weight", "ids"):
        assert out[name].tobytes() == base[name].tobytes()


def test_any_order_gives_the_same_bytes(adapters: list[Path]) -> None:
    merge(adapters, "one.safetensors")
    merge(adapters[::-1], "other.safetensors", WEIGHTS[::-1])
    folder = adapters[0].parent
    assert (folder / "one.safetensors").read_bytes() == (folder / "other.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", ["keep", "f32", "bf16"])
@pytest.mark.parametrize("by", ["remainder", "sources"])
def test_taking_out_gives_the_merge_of_the_others(adapters: list[Path], dtype: str, by: str) -> None:
    folder = adapters[0].parent
    merge(adapters, "all.safetensors", keep_remainder=by == "remainder", dtype=dtype)
    kept, gone = [adapters[0], adapters[3]], [adapters[1], adapters[2]]
    merge(kept, "fresh.safetensors", [WEIGHTS[0], WEIGHTS[3]], dtype=dtype)
    if by == "remainder":  # nothing else is there any more
        (folder / "base.safetensors").rename(folder / "hidden.safetensors")
        for path in kept:
            path.rename(path.with_name("hidden" + path.name))
    unmerge(folder / "all.safetensors", gone, out=folder / "back.safetensors")
    assert (folder / "back.safetensors").read_bytes() == (folder / "fresh.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", ["keep", "f32", "bf16"])
@pytest.mark.parametrize("keep_remainder", [True, False])
def test_taking_all_out_gives_the_base(adapters: list[Path], dtype: str, keep_remainder: bool) -> None:
    folder = adapters[0].parent
    merge(adapters, "all.safetensors", keep_remainder=keep_remainder, dtype=dtype)
    report = unmerge(folder / "all.safetensors", adapters, out=folder / "back.safetensors")
    base, back = (open_checkpoint(folder / name) for name in ("base.safetensors", "back.safetensors"))
    assert report.recipe is None
    assert back.metadata == base.metadata
    for name, tensor in base.tensors.items():
        data, found = bytearray(tensor.size_bytes), bytearray(tensor.size_bytes)
        tensor.read(0, memoryview(data))
        back.tensors[name].read(0, memoryview(found))
        assert (back.tensors[name].element, found) == (tensor.element, data), name


def test_a_result_is_verified_and_says_what_it_is_made_of(adapters: list[Path]) -> None:
    out = adapters[0].parent / "out.safetensors"
    recipe = merge(adapters, "out.safetensors").recipe
    assert verify(out, adapters).differences == ()
    assert verify(out, []).recipe == recipe
    report = inspect(out)
    assert (report.recipe, report.unchanged) == (recipe, True)
    assert set(report.found.values()) == {path / "adapter_model.safetensors" for path in adapters}
    data = bytearray(out.read_bytes())
    data[-1] ^= 1
    out.write_bytes(data)
    assert [difference.tensor for difference in verify(out, adapters).differences] == ["norm.weight"]


def test_a_merge_of_results_does_not_say_that_it_is_one_of_them(adapters: list[Path]) -> None:
    folder = adapters[0].parent
    for name in ("one", "other"):
        merge(adapters, f"{name}.safetensors", dtype="f32" if name == "one" else "keep")
    merge_checkpoints([folder / "one.safetensors"], out=folder / "m.safetensors")
    assert "spikemesh.adapters" not in open_checkpoint(folder / "m.safetensors").metadata


def test_a_changed_result_is_not_taken_for_what_it_was(adapters: list[Path]) -> None:
    folder = adapters[0].parent
    merge(adapters, "all.safetensors", keep_remainder=True)
    data = bytearray((folder / "all.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "all.safetensors").write_bytes(data)
    with pytest.raises(InvalidData, match="does not come back"):
        unmerge(folder / "all.safetensors", adapters[:1], out=folder / "back.safetensors")
    assert not (folder / "back.safetensors").exists()


def test_a_remainder_of_another_merge_is_refused(adapters: list[Path]) -> None:
    folder = adapters[0].parent
    merge(adapters[:2], "one.safetensors", WEIGHTS[:2], keep_remainder=True)
    merge(adapters, "all.safetensors")
    with pytest.raises(CheckpointError, match="another merge"):
        unmerge(
            folder / "all.safetensors",
            adapters[:1],
            out=folder / "back.safetensors",
            remainder=remainder_path(folder / "one.safetensors"),
        )


def test_what_was_trained_in_full_counts_as_its_difference(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.safetensors")
    trained = np.array([2, 5, -1], np.float32)
    saved = {"base_model.model.norm.weight": trained}
    write_adapter(tmp_path / "a", seed=1, tensors=saved, modules_to_save=["norm"])
    write_adapter(tmp_path / "b", seed=2)
    folders = [tmp_path / "a", tmp_path / "b"]
    merge(folders, "out.safetensors", ["0.5", "1"], keep_remainder=True)
    halfway = (base["norm.weight"].astype(np.float64) + trained) / 2
    assert np.array_equal(load_file(tmp_path / "out.safetensors")["norm.weight"], halfway.astype(np.float16))
    unmerge(tmp_path / "out.safetensors", folders, out=tmp_path / "back.safetensors")
    assert load_file(tmp_path / "back.safetensors")["norm.weight"].tobytes() == base["norm.weight"].tobytes()


def test_a_weight_that_lies_turned_is_changed_so(tmp_path: Path) -> None:
    base = {"c.weight": np.zeros((8, 8), np.float32), "d.weight": np.zeros((3, 5), np.float32)}
    save_file(base, tmp_path / "base.safetensors")
    shapes = {"c.weight": (8, 8), "d.weight": (5, 3)}
    factors = write_adapter(tmp_path / "a", seed=1, rank=1, alpha=1, shapes=shapes, fan_in_fan_out=True)
    merge([tmp_path / "a"], "out.safetensors", None)
    out = load_file(tmp_path / "out.safetensors")
    for name in ("c", "d"):
        a, b = (factors[f"base_model.model.{name}.lora_{side}.weight"].astype(np.float64) for side in "AB")
        assert np.array_equal(out[f"{name}.weight"], (b @ a).T.astype(np.float32))


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"layer_replication": [[0, 2]]}, "replicated"),
    ],
)
def test_what_is_no_plain_lora_is_refused_by_name(tmp_path: Path, config: dict[str, object], what: str) -> None:
    write_base(tmp_path / "base.safetensors")
    write_adapter(tmp_path / "a", seed=1, **config)
    with pytest.raises(CheckpointError, match=what):
        merge([tmp_path / "a"], "out.safetensors", None)


def test_a_tensor_that_is_no_factor_is_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "base.safetensors")
    name = "base_model.model.l.q_proj.lora_magnitude_vector"
    write_adapter(tmp_path / "a", seed=1, tensors={name: np.ones(12, np.float32)})
    with pytest.raises(CheckpointError, match="lora_magnitude_vector"):
        merge([tmp_path / "a"], "out.safetensors", None)


def test_a_base_without_the_targets_is_refused(adapters: list[Path]) -> None:
    save_file({"other.weight": np.zeros((2, 2), np.float32)}, adapters[0].parent / "strange.safetensors")
    with pytest.raises(CheckpointError, match=r"l\.k_proj\.weight.*other\.weight"):
        merge_adapters(
            adapters, base=adapters[0].parent / "strange.safetensors", out=adapters[0].parent / "o.safetensors"
        )


@pytest.mark.parametrize("pattern", ["(a+)+", "(?P<x>a)", ".*.*.*", "a" * 300, "(", "a?" * 30, "(a|a)" * 30])
def test_patterns_that_may_take_long_are_refused(tmp_path: Path, pattern: str) -> None:
    write_base(tmp_path / "base.safetensors")
    write_adapter(tmp_path / "a", seed=1, alpha_pattern={pattern: 1})
    with pytest.raises(InvalidData, match="pattern"):
        merge([tmp_path / "a"], "out.safetensors", None)


def test_a_copy_counts_once_and_its_given_weight_adds_up(adapters: list[Path]) -> None:
    folder = adapters[0].parent
    report = merge([adapters[0], adapters[0]], "once.safetensors", None)
    assert list(report.copies) == [str(adapters[0])]
    merge([adapters[0]], "one.safetensors", None)
    assert (folder / "once.safetensors").read_bytes() == (folder / "one.safetensors").read_bytes()
    merge([adapters[0], adapters[0]], "twice.safetensors", ["1", "2"])
    merge([adapters[0]], "three.safetensors", ["3"])
    assert (folder / "twice.safetensors").read_bytes() == (folder / "three.safetensors").read_bytes()


def test_adapters_merged_with_each_other_add_what_each_adds(adapters: list[Path]) -> None:
    folder, weights = adapters[0].parent, ["1", "-0.5", "1"]
    chosen = [adapters[0], adapters[0].with_name("half"), adapters[3]]
    write_adapter(chosen[1], seed=9, rank=3, alpha=6, dtype=np.float16)
    report = stack_adapters(chosen, out=folder / "stacked", weights=weights)
    assert (report.rank, report.num_modules) == (4 + 3 + 2, 2)
    merge([folder / "stacked"], "by_one.safetensors", None)
    merge(chosen, "by_all.safetensors", weights)
    one, all_ = (load_file(folder / f"by_{name}.safetensors") for name in ("one", "all"))
    assert {name: tensor.tobytes() for name, tensor in one.items()} == {n: t.tobytes() for n, t in all_.items()}
    config = json.loads((folder / "stacked" / "adapter_config.json").read_text())
    assert config["r"] == 9 and config["rank_pattern"] == {"l\\.k_proj": 7}


def test_an_adapter_of_adapters_takes_along_what_stands_beside_one_of_them(tmp_path: Path) -> None:
    adapters = [tmp_path / text for text in ("light", "heavy")]
    for seed, path in enumerate(adapters):
        write_adapter(path, seed=seed, rank=4)
        (path / "tokenizer.json").write_text(path.name)
        (path / "README.md").write_text("scores")
    out = tmp_path / "stacked"
    report = stack_adapters(adapters, out=out, weights=["0.5", "1"])
    assert report.companions.source is not None and report.companions.source.folder == adapters[1]
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
    ]
    assert (out / "tokenizer.json").read_text() == "heavy"
    assert set(report.companions.left) == set(adapters), "README is left behind, and named"
    assert (sorted(report.companions.files), report.companions.differing) == (["tokenizer.json"], ("tokenizer.json",))
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 8, "computed anew, and so of neither"


def test_an_adapter_of_adapters_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters, out = [tmp_path / "a", tmp_path / "b"], tmp_path / "stacked"
    for seed, path in enumerate(adapters):
        write_adapter(path, seed=seed, rank=4)
    stack_adapters(adapters[:1], out=out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    listing = sorted(path.name for path in out.parent.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(Output, "_rename", _fail)
        with pytest.raises(StoreError):
            stack_adapters(adapters, out=out, force=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in out.parent.iterdir()) == listing
    stack_adapters(adapters, out=out, force=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} != before


def _fail(_: Output) -> None:
    raise StoreError("no")


def test_factors_are_never_averaged(adapters: list[Path]) -> None:
    with pytest.raises(CheckpointError, match="mean of factors"):
        merge_checkpoints(adapters, out=adapters[0].parent / "mean.safetensors")


def test_a_weight_that_no_adapter_can_hold_is_refused(adapters: list[Path]) -> None:
    with pytest.raises(CheckpointError, match="exactly"):
        stack_adapters(adapters[:2], out=adapters[0].parent / "stacked", weights=["1/3", "1"])


def test_a_remainder_that_an_earlier_merge_left_there_is_passed_by(adapters: list[Path]) -> None:
    """Taken out in place, a result stands beside the remainder of what it was; the sources are still there."""
    out = merge(adapters, "out.safetensors", keep_remainder=True).out
    unmerge(out, adapters[:1], out=out, force=True)
    report = unmerge(out, adapters[1:2], out=out.parent / "back.safetensors")
    fresh = merge(adapters[2:], "fresh.safetensors", WEIGHTS[2:]).out
    assert report.remainder is None and report.out.read_bytes() == fresh.read_bytes()


def test_a_preview_says_what_the_merge_does(adapters: list[Path]) -> None:
    folder = adapters[0].parent
    shutil.copytree(adapters[0], folder / "copy")
    given = [adapters[3], adapters[0], folder / "copy"]
    said: dict[str, Any] = {"weights": ["0.5", "1", "2"], "dtype": "f32", "base": folder / "base.safetensors"}
    found = preview_adapters(given, out=folder / "out.safetensors", **said)
    assert not (folder / "out.safetensors").exists()
    assert {tensor.name: (tensor.how, len(tensor.sources)) for tensor in found.tensors} == {
        "ids": ("kept from the base", 1),
        "l.k_proj.weight": ("summed", 2),
        "l.q_proj.weight": ("summed", 3),
        "norm.weight": ("given another type", 1),
    }
    report = merge_adapters(given, out=folder / "out.safetensors", **said)
    assert report.recipe is not None
    weights = {str(report.adapters[leaf.content]): leaf.weight for leaf in report.recipe.leaves}
    assert found.adapters == weights == {str(adapters[3]): Fraction(1, 2), str(adapters[0]): 3}
    assert (found.copies, found.result_bytes) == (report.copies, report.bytes_written)
    made = load_file(folder / "out.safetensors")
    assert {tensor.name: tensor.shape for tensor in found.tensors} == {name: t.shape for name, t in made.items()}


def test_a_preview_refuses_what_the_merge_refuses(adapters: list[Path]) -> None:
    folder = adapters[0].parent
    write_base(folder / "other.safetensors")
    write_adapter(folder / "strange", seed=9, shapes={"gone.weight": (3, 3)})
    with pytest.raises(CheckpointError, match="tensors that the base does not have: 'gone"):
        preview_adapters([folder / "strange"], base=folder / "other.safetensors", out=folder / "out")
    write_adapter(folder / "wide", seed=9, shapes={"l.q_proj.weight": (12, 9)})
    with pytest.raises(CheckpointError, match="of different models"):
        preview_stack([adapters[0], folder / "wide"], out=folder / "out")
    with pytest.raises(ValueError, match="an adapter is a folder"):
        preview_stack(adapters, out=folder / "out.safetensors")


def test_a_preview_of_an_adapter_of_adapters(adapters: list[Path]) -> None:
    folder, half = adapters[0].parent, adapters[0].with_name("half")
    write_adapter(half, seed=9, rank=3, alpha=6)
    found = preview_stack([adapters[0], half], out=folder / "out", weights=["1", "-0.5"])
    assert not (folder / "out").exists()
    report = stack_adapters([adapters[0], half], out=folder / "out", weights=["1", "-0.5"])
    assert (found.rank, found.num_modules, found.adapters) == (report.rank, report.num_modules, report.adapters)
    assert (found.rank, found.num_modules) == (4 + 3, 2) and found.companions == report.companions


def test_doubles_are_held_times_powers_of_two_and_refused_where_bits_are_lost(tmp_path: Path) -> None:
    adapters, weights = [tmp_path / "a", tmp_path / "b"], ["1", "-0.5"]
    for seed, path in enumerate(adapters):
        write_adapter(path, seed=seed, alpha=6, dtype=np.float64)
    base = tmp_path / "base.safetensors"
    write_base(base)
    stack_adapters(adapters, out=tmp_path / "both", weights=weights)
    merge_adapters([tmp_path / "both"], base=base, out=tmp_path / "by_one.safetensors")
    merge_adapters(adapters, base=base, out=tmp_path / "by_all.safetensors", weights=weights)
    one, all_ = (load_file(tmp_path / f"by_{name}.safetensors") for name in ("one", "all"))
    assert {name: tensor.tobytes() for name, tensor in one.items()} == {n: t.tobytes() for n, t in all_.items()}
    tensors = load_file(adapters[1] / "adapter_model.safetensors")
    name = "base_model.model.l.k_proj.lora_B.weight"
    tensors[name][0, 0] = 3 * 5e-324
    save_file(tensors, adapters[1] / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"cannot hold 'l\.k_proj\.weight' times -1/2 exactly"):
        stack_adapters(adapters, out=tmp_path / "tiny", weights=weights)
