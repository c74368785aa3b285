"""`merge` and `unmerge` of adapters from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spikemesh.checkpoint.known import CACHE_VARIABLE
from spikemesh.cli import build_app
from spikemesh.errors import CheckpointError
from tests.checkpoint.adapter_folders import write_adapter, write_base


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "base.safetensors")
    for number in range(3):
        write_adapter(tmp_path / f"a{number}", seed=number)
    return tmp_path


def said(*words: str) -> str:
    result = CliRunner().invoke(build_app(words[0]), list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_there_and_back(folder: Path) -> None:
    text = said("merge", "a0", "a1", "a2", "--base", "base.safetensors", "-o", "all.safetensors", "--keep-remainder")
    assert "the base and 3 adapters" in text and "all.remainder.safetensors" in text
    said("merge", "a0", "a2", "--base", "base.safetensors", "-o", "fresh.safetensors")
    facts = json.loads(said("unmerge", "all.safetensors", "a1", "-o", "back.safetensors", "--json"))
    assert len(facts["adapters"]) == 2 and facts["remainder"].endswith("all.remainder.safetensors")
    assert (folder / "back.safetensors").read_bytes() == (folder / "fresh.safetensors").read_bytes()
    assert "all.safetensors" not in said("unmerge", "all.safetensors", "a0", "a1", "a2", "-o", "base2.safetensors")


def test_adapters_without_a_base_stay_one(folder: Path) -> None:
    text = said("merge", "a0", "a1", "-o", "both")
    assert "one adapter of rank 6" in text
    assert "Its adapter_config.json is that of a" in text and "tokenizer" not in text
    assert sorted(path.name for path in (folder / "both").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_a_dry_run_says_what_would_be_merged_and_writes_nothing(folder: Path) -> None:
    before = sorted(folder.iterdir())
    onto = ("merge", "a0", "a1", "--base", "base.safetensors", "-o", "all.safetensors", "--dry-run")
    text = said(*onto)
    assert "Would be 4 tensors, " in text and "base.safetensors and 2 adapters. Nothing was written." in text
    assert "2 summed, from base.safetensors, a0, a1: l.k_proj.weight, l.q_proj.weight." in text
    assert json.loads(said(*onto, "--weight", "1", "--weight", "2", "--json"))["adapters"] == {"a0": "1", "a1": "2"}
    text = said("merge", "a0", "a1", "-o", "both", "--dry-run")
    assert "Would be one adapter of rank 6 for 2 modules, the sum of 2 adapters, if it can be held exactly." in text
    assert "Its adapter_config.json is that of a" in text and "tokenizer" not in text
    assert sorted(folder.iterdir()) == before


def test_what_stands_beside_the_base_comes_along_and_is_said(folder: Path) -> None:
    (folder / "base").mkdir()
    (folder / "base.safetensors").rename(folder / "base" / "model.safetensors")
    (folder / "base" / "config.json").write_text('{"dtype": "bfloat16"}')
    (folder / "base" / "README.md").write_text("of the base")
    text = said("merge", "a0", "--base", "base", "-o", "out", "--dtype", "f32")
    assert "Configuration and tokenizer are of base: config.json." in text
    assert "Left behind in base: README.md (describes that model, not the result)." in text
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "out" / "config.json").read_text() == '{"dtype": "float32"}'


def test_what_is_no_adapter_is_told_from_what_lacks_a_part(folder: Path) -> None:
    (folder / "a1" / "adapter_config.json").unlink()
    for name, words in (
        ("gone", "gone is not there"),
        ("a1", "a1 has weights of an adapter and no adapter_config.json"),
        ("base.safetensors", "a0 is an adapter and base.safetensors is not"),
    ):
        with pytest.raises(CheckpointError, match=words):
            said("merge", "a0", name, "-o", "out")
    assert not (folder / "out").exists()


def test_a_merge_of_adapters_is_repeated_from_its_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = ["--weight", "0.7", "--weight", "-2"]
    said("merge", "a0", "a1", *weights, "--base", "base.safetensors", "-o", "all.safetensors", "--dtype", "bf16")
    recipe = said("inspect", "all.safetensors", "--recipe")
    assert 'name = "a1"' in recipe and 'name = "base.safetensors"' in recipe and str(folder) not in recipe
    (folder / "r.toml").write_text(recipe)
    (folder / "moved" / "deep").mkdir(parents=True)
    (folder / "a0").rename(folder / "moved" / "x")
    (folder / "a1").rename(folder / "moved" / "deep" / "y")
    (folder / "base.safetensors").rename(folder / "moved" / "z.safetensors")
    monkeypatch.setenv(CACHE_VARIABLE, str(folder / "empty"))
    for how in (["--recipe", "r.toml"], ["--again", "all.safetensors"]):
        text = said("merge", *how, "--from-folder", "moved", "-o", "again.safetensors", "--force")
        assert "the base and 2 adapters" in text
        assert (folder / "again.safetensors").read_bytes() == (folder / "all.safetensors").read_bytes()


def test_an_adapter_of_adapters_is_inspected_repeated_and_verified(folder: Path) -> None:
    said("merge", "a0", "a1", "-o", "both", "--weight", "1", "--weight", "0.5")
    assert "Merged by sum of adapters from 2 checkpoints:" in said("inspect", "both")
    (folder / "r.toml").write_text(said("inspect", "both", "--recipe"))
    text = said("merge", "--recipe", "r.toml", "-o", "again")
    assert "one adapter of rank 6" in text and "weight 1/2" in text
    for path in (folder / "both").iterdir():
        assert (folder / "again" / path.name).read_bytes() == path.read_bytes()
    assert "both is what its 2 inputs give by sum of adapters: 4 tensors" in said("verify", "both")
    with pytest.raises(CheckpointError, match="a0 is an adapter that does not say that it was made of adapters"):
        said("verify", "a0")
