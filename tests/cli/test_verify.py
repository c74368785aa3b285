"""`spikemesh verify`: equal or not, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spikemesh.checkpoint import merge
from spikemesh.checkpoint.known import CACHE_VARIABLE
from tests.checkpoint.files import f32, write_safetensors
from tests.cli.conftest import Run


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name, numbers in {"a": (1, 0, 3), "b": (3, 2, 0), "base": (1, 1, 1)}.items():
        write_safetensors(tmp_path / f"{name}.safetensors", {f"w{i}": f32(*numbers) for i in range(7)})
    merge(["a.safetensors", "b.safetensors"], out="out.safetensors", base="base.safetensors", mask_from="a.safetensors")
    return tmp_path


EXTRAS = ("--base", "base.safetensors", "--mask-from", "a.safetensors")


def test_equal(run: Run, files: Path) -> None:
    said = "out.safetensors is what its 2 inputs give by active-mean: 7 tensors, 84 bytes, every bit.\n"
    assert run("verify", "out.safetensors", "a.safetensors", "b.safetensors", *EXTRAS) == (0, said, "")
    assert run("verify", "out.safetensors") == (0, said, "")
    code, stdout, _ = run("verify", "out.safetensors", "--json")
    assert code == 0 and json.loads(stdout) == {"equal": True, "differences": [], "calibrated": []}


def test_not_equal(run: Run, files: Path) -> None:
    data = bytearray((files / "out.safetensors").read_bytes())
    for number in range(7):
        data[-12 * number - 1] ^= 0x80  # the sign of each tensor's last element
    (files / "out.safetensors").write_bytes(data)
    code, stdout, stderr = run("verify", "out.safetensors")
    assert (code, stdout) == (9, "")
    assert stderr.startswith(
        "spikemesh: out.safetensors is not what its inputs give: 'w0' from element 2 on (expected '0000c03f', found "
        "'0000c0bf'); 'w1' from "
    )
    assert "; 'w4' from " in stderr and "'w5'" not in stderr
    assert stderr.endswith(", and 2 more. Merge again, and do not use this file.\n")
    code, stdout, stderr = run("verify", "out.safetensors", "--json")
    facts = json.loads(stdout)
    assert code == 9 and facts["equal"] is False and len(facts["differences"]) == 7
    assert facts["differences"][0] == {"tensor": "w0", "element": 2, "expected": "0000c03f", "seen": "0000c0bf"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["gone"], 11, "gone is not there"),
        (["a.safetensors"], 11, "does not say that it was merged from anything"),
        (["out.safetensors", "base.safetensors"], 11, "base.safetensors was not merged into this file"),
        (["out.safetensors", "--base", "a.safetensors"], 11, "the base is not the one that was merged with"),
        (["cut.safetensors"], 10, "is not a whole safetensors file"),
        ([], 2, "Missing argument"),
    ],
)
def test_how_it_fails(run: Run, files: Path, arguments: list[str], code: int, words: str) -> None:
    (files / "cut.safetensors").write_bytes((files / "out.safetensors").read_bytes()[:-1])
    seen, stdout, stderr = run("verify", *arguments)
    assert (seen, stdout) == (code, "")
    assert words in " ".join(stderr.replace("│", " ").split())
