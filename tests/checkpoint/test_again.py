"""A merge told beforehand, written down and repeated; and the records of earlier versions."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from spikemesh.checkpoint import (
    Recipe,
    merge,
    merge_again,
    open_checkpoint,
    preview,
    read_recipe_file,
    recipe_of,
    seen_names,
    to_toml,
    verify,
)
from spikemesh.checkpoint.adapters import (
    AdapterLeaf,
    AdapterRecipe,
    StackRecipe,
    merge_adapters,
    merge_adapters_again,
    stack_adapters,
    stack_adapters_again,
)
from spikemesh.checkpoint.known import CACHE_VARIABLE, KnownFiles
from spikemesh.checkpoint.recipe import CHECKSUM_KEY, METADATA_KEY
from spikemesh.errors import CheckpointError, InvalidData
from tests.checkpoint.adapter_folders import write_adapter, write_base
from tests.checkpoint.files import f32, i64, read_metadata, read_safetensors, values, write_safetensors


@pytest.fixture
def inputs(folder: Path) -> list[Path]:
    tensors = [{"w": f32(i, 2), "s": f32(i), "n": i64(i, i)} for i in (1, 4, 8)]
    return [write_safetensors(folder / f"{i}.safetensors", one, {"model": "m"}) for i, one in enumerate(tensors)]


def made(folder: Path, inputs: list[Path]) -> Path:
    base = write_safetensors(folder / "start.safetensors", {"w": f32(1, 1), "s": f32(0), "frozen": f32(5)})
    options = {"skip": ["frozen"], "take": ["s=2"], "weight_of": ["1:w=3"], "integers": "max", "weights": [1, 2, 0.5]}
    report = merge(inputs, out=folder / "made.safetensors", base=base, **options)  # type: ignore[arg-type]
    assert report.out is not None
    return report.out


def test_a_merge_is_repeated_from_its_recipe_with_files_found_by_content(
    folder: Path, inputs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = made(folder, inputs)
    recipe = recipe_of(out)
    (folder / "recipe.toml").write_text(to_toml(recipe, seen_names(recipe)))
    assert "start.safetensors" in (folder / "recipe.toml").read_text()
    assert str(folder) not in (folder / "recipe.toml").read_text()
    assert read_recipe_file(folder / "recipe.toml") == recipe
    (folder / "moved" / "deep").mkdir(parents=True)
    for number, path in enumerate([*inputs, folder / "start.safetensors"]):
        path.rename(folder / "moved" / ("deep" if number % 2 else ".") / f"x{number}.safetensors")
    (folder / "moved" / "no.pt").write_text("none")
    monkeypatch.setenv(CACHE_VARIABLE, str(folder / "empty"))
    with pytest.raises(CheckpointError, match="4 of the 4 files of the recipe are neither"):
        merge_again(recipe, out=folder / "again.safetensors")
    again = merge_again(recipe, out=folder / "again.safetensors", from_folder=folder / "moved")
    assert again.out is not None and again.out.read_bytes() == out.read_bytes()
    assert verify(out, []).differences == ()


def test_what_is_no_recipe_is_refused(folder: Path) -> None:
    path = folder / "recipe.toml"
    for text in ("", "x = ", "input = 3", "[[input]]\nname = 'a'", "strange = 1", "rule = 'median'\n[[input]]"):
        path.write_text(text)
        with pytest.raises(InvalidData, match="recipe"):
            read_recipe_file(path)
    with pytest.raises(CheckpointError, match="is not there"):
        read_recipe_file(folder / "gone.toml")


def test_names_for_people_may_be_anything() -> None:
    recipe = Recipe(rule="mean", leaves=recipe_leaves(), skip=('a"b\\c\x7f\n*',))
    assert "a\\u007f" in to_toml(recipe, {"a" * 64: "a\x7f"})


def recipe_leaves() -> frozenset:  # type: ignore[type-arg]
    from spikemesh.checkpoint import Leaf

    return frozenset({Leaf("a" * 64)})


def test_a_preview_says_what_the_merge_does(folder: Path, inputs: list[Path]) -> None:
    base = write_safetensors(folder / "base.safetensors", {"w": f32(1, 1), "frozen": f32(5)})
    copy = write_safetensors(folder / "copy.safetensors", read_safetensors(inputs[0]))
    found = preview([*inputs, copy], base=base, skip=["n"], take=["s=1"])
    assert {tensor.name: (tensor.how, len(tensor.sources)) for tensor in found.tensors} == {
        "frozen": ("kept from the base", 1),
        "s": ("copied", 1),
        "w": ("merged", 3),
    }
    assert found.skipped == ("n",) and found.copies == {str(copy): str(inputs[0])}
    with pytest.raises(CheckpointError, match="no tensor's name matches"):
        preview(inputs, skip=["x"])
    assert sorted(path.suffix for path in folder.iterdir() if path.is_file()) == [".safetensors"] * 5


def model(folder: Path, value: float, tokenizer: str) -> Path:
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", {"w": f32(value)})
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text(tokenizer)
    (folder / "README.md").write_text("scores")
    return folder


def test_a_preview_says_what_would_stand_beside_the_weights(folder: Path) -> None:
    models = [model(folder / "a", 1, "of a"), model(folder / "b", 3, "of b")]
    found = preview(models, out=folder / "out", weights=[1, 2]).companions
    assert found.source is not None and found.source.folder == models[1]
    assert sorted(found.files) == ["config.json", "tokenizer.json"] and found.differing == ("tokenizer.json",)
    assert {path: list(names) for path, names in found.left.items()} == {path: ["README.md"] for path in models}
    assert preview(models, companions_from=models[0]).companions.source.folder == models[0]  # type: ignore[union-attr]
    one = preview(models, out=folder / "out.safetensors", weights=[1, 2]).companions
    assert one.source is None and "tokenizer.json" in one.left[models[0]]


def test_a_merge_again_takes_along_what_the_merge_took(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "models").mkdir()
    models = [model(folder / "models" / "a", 1, "of a"), model(folder / "models" / "b", 3, "of b")]
    merge(models, out=folder / "out", weights=[1, 2])
    monkeypatch.setenv(CACHE_VARIABLE, str(folder / "empty"))
    recipe = recipe_of(folder / "out")
    again = merge_again(recipe, out=folder / "again", from_folder=folder / "models")
    assert again.companions is not None and again.companions.source is not None
    assert {p.name: p.read_bytes() for p in (folder / "again").iterdir()} == {
        p.name: p.read_bytes() for p in (folder / "out").iterdir()
    }
    merge_again(recipe, out=folder / "other", from_folder=folder / "models", companions_from=models[0])
    assert (folder / "other" / "tokenizer.json").read_text() == "of a"


def test_a_file_of_an_earlier_version_is_read_verified_and_merged(folder: Path) -> None:
    """Its record has no options; it kept nothing of what the base alone has, and names as they were."""
    a, b = (write_safetensors(folder / f"{n}.safetensors", {"w": f32(v)}) for n, v in (("a", 1), ("b", 3)))
    base = write_safetensors(folder / "base.safetensors", {"w": f32(0), "frozen": f32(7)})
    new = merge([a, b], out=folder / "new.safetensors", base=base, skip=["frozen"])
    assert new.out is not None
    leaves = [{"content": leaf.content, "weight": "1/2"} for leaf in sorted(new.recipe.leaves)]
    record = {"format": 1, "rule": "active-mean", "base": new.recipe.base, "mask": None, "dtype": "keep"}
    text = json.dumps({**record, "leaves": leaves}, separators=(",", ":"))
    said = {"format": "pt", METADATA_KEY: text, CHECKSUM_KEY: read_metadata(new.out)[CHECKSUM_KEY]}
    old = write_safetensors(folder / "old.safetensors", read_safetensors(new.out), said)
    assert verify(old, []).differences == ()
    c = write_safetensors(folder / "c.safetensors", {"w": f32(8)})
    report = merge([old, c], out=folder / "out.safetensors", weights=[0.5, 0.5])
    assert values(read_safetensors(folder / "out.safetensors")["w"]) == [5]
    assert report.from_base == ("frozen",)


def test_what_a_recipe_does_not_name_is_refused_and_what_it_lacks_is_named(
    folder: Path, inputs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = merge(inputs[:2], out=folder / "made.safetensors", skip=["n"]).recipe
    with pytest.raises(CheckpointError, match=r"2\.safetensors has no part in the recipe"):
        merge_again(recipe, inputs, out=folder / "out.safetensors")
    monkeypatch.setenv(CACHE_VARIABLE, str(folder / "empty"))
    with pytest.raises(CheckpointError, match=r"1 of the 2 files of the recipe are neither .* --from-folder"):
        merge_again(recipe, inputs[:1], out=folder / "out.safetensors")
    assert not (folder / "out.safetensors").exists()


def test_what_a_recipe_file_lacks_is_said(folder: Path) -> None:
    path = folder / "recipe.toml"
    for text, words in (("", "names no inputs"), ("[[input]]\nname = 'a'", "'content' is missing")):
        path.write_text(text)
        with pytest.raises(InvalidData, match=words):
            read_recipe_file(path)


@pytest.fixture
def adapters(folder: Path) -> list[Path]:
    (folder / "base").mkdir()
    write_base(folder / "base" / "model.safetensors")
    (folder / "base" / "config.json").write_text("{}")
    paths = [folder / name for name in ("a", "b")]
    for seed, path in enumerate(paths):
        write_adapter(path, seed=seed, use_rslora=bool(seed))
    return paths


def test_a_merge_of_adapters_is_repeated_with_files_found_by_content(
    folder: Path, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder / "out"
    merge_adapters(adapters, base=folder / "base", out=out, rule="mean", weights=["1", "2"], dtype="f32")
    recipe = recipe_of(out)
    assert isinstance(recipe, AdapterRecipe) and {str(leaf.weight) for leaf in recipe.leaves} == {"1/3", "2/3"}
    assert sorted(seen_names(recipe).values()) == ["a", "b", "base"]
    (folder / "recipe.toml").write_text(to_toml(recipe, seen_names(recipe)))
    assert read_recipe_file(folder / "recipe.toml") == recipe
    (folder / "moved").mkdir()
    for path in (*adapters, folder / "base"):
        path.rename(folder / "moved" / f"of-{path.name}")
    shutil.copytree(folder / "moved" / "of-a", folder / "moved" / "0-other-alpha")
    (folder / "moved" / "0-other-alpha" / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 3, "lora_alpha": 1}'
    )
    monkeypatch.setenv(CACHE_VARIABLE, str(folder / "empty"))
    with pytest.raises(CheckpointError, match="3 of the 3 files of the recipe are neither"):
        merge_adapters_again(recipe, out=folder / "again")
    report = merge_adapters_again(recipe, out=folder / "again", from_folder=folder / "moved")
    assert sorted(path.name for path in report.adapters.values()) == ["of-a", "of-b"]
    assert {p.name: p.read_bytes() for p in (folder / "again").iterdir()} == {
        p.name: p.read_bytes() for p in out.iterdir()
    }
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]


def test_adapters_that_a_recipe_does_not_name_are_refused(folder: Path, adapters: list[Path]) -> None:
    merge_adapters(adapters[:1], base=folder / "base", out=folder / "out")
    recipe = recipe_of(folder / "out")
    assert isinstance(recipe, AdapterRecipe)
    with pytest.raises(CheckpointError, match="b has no part in the recipe"):
        merge_adapters_again(recipe, adapters, out=folder / "again")
    (adapters[0] / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 3, "lora_alpha": 1}')
    with pytest.raises(CheckpointError, match="a has tensors of the recipe, and another adapter_config"):
        merge_adapters_again(recipe, adapters[:1], out=folder / "again")
    assert not (folder / "again").exists()


def test_what_is_no_recipe_of_adapters_is_refused(folder: Path) -> None:
    path, hash_ = folder / "recipe.toml", "a" * 64
    adapter = f"[[adapter]]\ncontent = '{hash_}'\nmeaning = '{hash_}'\n"
    base = f"[base]\ncontent = '{hash_}'\n"
    path.write_text(adapter + base)
    leaf = AdapterLeaf(hash_, hash_)
    assert read_recipe_file(path) == AdapterRecipe(base=hash_, leaves=frozenset({leaf}))
    path.write_text(adapter)
    assert read_recipe_file(path) == StackRecipe(leaves=frozenset({leaf}))
    for text, words in (
        (adapter + "[base]", "'content' is missing"),
        ("dtype = 'f32'\n" + adapter, "unknown key 'dtype'"),
        (adapter.replace("meaning", "sense") + base, "'meaning' is missing"),
        (adapter + base.replace(hash_, "../x"), "expected a hash"),
        ("rule = 'mean'\n" + adapter + base, "unknown key 'rule'"),
        ("adapter = 3\n" + base, "no recipe"),
        ("adapter = []\n" + base, "not of this version"),
        ("dtype = 'f8'\n" + adapter + base, "not of this version"),
        (adapter + "weight = 0\n" + base, "expected a weight above 0"),
    ):
        path.write_text(text)
        with pytest.raises(InvalidData, match=words):
            read_recipe_file(path)


def test_an_adapter_of_adapters_is_repeated_with_files_found_by_content(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder / "out"
    for seed, name in enumerate(("c", "d")):
        write_adapter(folder / name, seed=seed, alpha=6)
    stack_adapters([folder / "c", folder / "c", folder / "d"], out=out, weights=["1", "1", "0.5"])
    recipe = recipe_of(out)
    assert isinstance(recipe, StackRecipe) and {str(leaf.weight) for leaf in recipe.leaves} == {"2", "1/2"}
    (folder / "recipe.toml").write_text(to_toml(recipe, seen_names(recipe)))
    assert read_recipe_file(folder / "recipe.toml") == recipe
    (folder / "moved").mkdir()
    for path in (folder / "c", folder / "d"):
        path.rename(folder / "moved" / f"of-{path.name}")
    monkeypatch.setenv(CACHE_VARIABLE, str(folder / "empty"))
    stack_adapters_again(recipe, out=folder / "again", from_folder=folder)
    assert {p.name: p.read_bytes() for p in (folder / "again").iterdir()} == {
        p.name: p.read_bytes() for p in out.iterdir()
    }
    with pytest.raises(ValueError, match="an adapter is a folder"):
        stack_adapters_again(recipe, out=folder / "again.safetensors", from_folder=folder)


def test_a_changed_adapter_of_adapters_is_not_verified(folder: Path, adapters: list[Path]) -> None:
    out, weights = folder / "out", folder / "out" / "adapter_model.safetensors"
    stack_adapters(adapters[:1], out=out, weights=["0.5"])
    assert verify(out, []).differences == verify(out, adapters[:1]).differences == ()
    config = json.loads((out / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 99}))
    assert {d.tensor for d in verify(out, []).differences} == {
        f"adapter_config.json: scale of {name}" for name in ("l.k_proj.weight", "l.q_proj.weight")
    }
    (out / "adapter_config.json").write_text(json.dumps(config))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    (difference,) = verify(out, []).differences
    assert difference.tensor.endswith((".lora_A.weight", ".lora_B.weight"))


def test_a_base_that_is_not_what_it_was_taken_for_is_refused(folder: Path, adapters: list[Path]) -> None:
    merge_adapters(adapters, base=folder / "base", out=folder / "out")
    recipe = recipe_of(folder / "out")
    assert isinstance(recipe, AdapterRecipe)
    write_base(folder / "base" / "model.safetensors", seed=5)
    with closing(open_checkpoint(folder / "base")) as other:
        KnownFiles().remember(other, recipe.base)
    with pytest.raises(InvalidData, match="base has changed: expected content"):
        merge_adapters_again(recipe, out=folder / "again")
    assert not (folder / "again").exists()
