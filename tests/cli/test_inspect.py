"""`spikemesh inspect`: a table for people, facts for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spikemesh.checkpoint import inspect, merge
from spikemesh.checkpoint.known import CACHE_VARIABLE
from tests.checkpoint.files import Raw, f32, i64, torch_tensors, write_safetensors, write_torch
from tests.cli.conftest import Run


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")  # which is for terminals, and this is none
    numbers = {"layers.0.a_rather_long_name_of_a_weight.weight": f32(1, 0, -2.5, float("inf"), shape=(2, 2))}
    write_safetensors(
        tmp_path / "a.safetensors", {**numbers, "step": Raw("I64", (), i64(3).data), "[red]x[/red]": f32(0)}
    )
    return tmp_path


def rows(stdout: str) -> list[list[str]]:
    return [line.split() for line in stdout.splitlines()]


def test_a_table(run: Run, files: Path) -> None:
    code, stdout, stderr = run("inspect", "a.safetensors")
    assert (code, stderr) == (0, "")
    assert rows(stdout)[:4] == [
        ["tensor", "type", "shape", "not", "zero", "smallest", "largest", "NaN", "infinite"],
        ["[red]x[/red]", "F32", "1", "0.00%", "0", "0"],
        ["layers.0.a_rather_long_name_of_a_weight.weight", "F32", "2x2", "75.00%", "-2.5", "1", "1"],
        ["step", "I64", "one", "100.00%", "3", "3"],
    ]
    content = inspect("a.safetensors").content
    assert stdout.splitlines()[-1] == (
        f"a.safetensors: 3 tensors, 6 elements, 28 bytes, 66.67% not zero, 1 not finite; content {content}."
    )


def test_facts(run: Run, files: Path) -> None:
    code, stdout, _ = run("inspect", "a.safetensors", "--json")
    facts = json.loads(stdout)
    assert code == 0 and facts["merged"] is None and facts["non_finite"] == 1 and facts["size_bytes"] == 28
    assert facts["tensors"][2] == {
        "name": "step",
        "type": "I64",
        "shape": [],
        "density": 1.0,
        "non_finite": 0,
        "nan": 0,
        "infinite": 0,
        "smallest": 3.0,
        "largest": 3.0,
    }


def test_where_it_came_from(run: Run, files: Path) -> None:
    write_safetensors(files / "b.safetensors", {"w": f32(1, 1)})
    write_safetensors(files / "c.safetensors", {"w": f32(2, -0.0)})
    merge(["b.safetensors", "c.safetensors"], out="out.safetensors", weights=[1, "0.5"], base="b.safetensors")
    content = inspect("b.safetensors").content
    (files / "c.safetensors").unlink()
    _, stdout, _ = run("inspect", "out.safetensors")
    said = stdout.splitlines()[3:]
    assert said[0] == f"Merged by active-mean from 2 checkpoints against the base {content[:16]}:"
    assert any(line.startswith("  weight 1 ") and line.endswith("  not seen on this machine") for line in said[1:])
    assert f"  weight 2  content {content[:16]}  {files.resolve()}/b.safetensors" in said
    facts = json.loads(run("inspect", "out.safetensors", "--json")[1])["merged"]
    assert facts["base"] == content and facts["unchanged"] is True
    assert {leaf["weight"]: leaf["path"] for leaf in facts["leaves"]} == {"2": f"{files}/b.safetensors", "1": None}
    with (files / "out.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x3f")
    assert ", and changed since then:" in run("inspect", "out.safetensors")[1]


def test_values_that_are_no_tensors_are_counted(run: Run, files: Path) -> None:
    write_torch(files / "a.pt", {**torch_tensors({"w": f32(1)}), "epoch": 1, "lr": 0.1})
    assert "Beside them 2 values that are no tensors of the checkpoint." in run("inspect", "a.pt")[1]
    assert json.loads(run("inspect", "a.pt", "--json")[1])["left_out"] == ["epoch", "lr"]


def test_how_it_fails(run: Run, files: Path) -> None:
    code, stdout, stderr = run("inspect", "gone")
    assert (code, stdout) == (11, "") and stderr.startswith("spikemesh: gone is not there.")
    (files / "web.safetensors").write_text("<!DOCTYPE html>")
    code, _, stderr = run("inspect", "web.safetensors")
    assert code == 10 and "web.safetensors is a web page and not a checkpoint" in stderr
