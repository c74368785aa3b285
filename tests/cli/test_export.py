"""`spikemesh export` writes what it says, replaces nothing unasked, and says what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spikemesh.cli.model import load_model_file
from spikemesh.codec import read_metadata, read_tensor_file, write_tensors
from spikemesh.snn import dense_tensors, model_metadata
from tests.cli.test_model_files import CONFIG, Run, parents, run

assert parents and run

FIXED = {"readout.bias": np.linspace(-1, 1, 256, dtype=np.float32)}


@pytest.fixture
def source(parents: list[Path], tmp_path: Path) -> Path:
    path = tmp_path / "source.safetensors"
    path.write_bytes(write_tensors(dense_tensors(load_model_file(parents[0])) | FIXED, model_metadata(CONFIG)))
    return path


def test_safetensors(run: Run, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    code, said, _ = run("export", source, "--out", out)
    assert code == 0 and said.startswith(f"{out}: every weight in full")
    assert read_metadata(out.read_bytes()) == model_metadata(CONFIG)
    tensors = read_tensor_file(out.read_bytes())
    expected = read_tensor_file(source.read_bytes())
    assert tensors.keys() == expected.keys()
    assert all(np.array_equal(tensors[name], expected[name]) for name in expected)
    assert run("generate", out, "--length", "3")[0] == 0


@pytest.mark.parametrize(("form", "size"), [("nir", 256), ("nir-core", 2 * 32)])
def test_nir(run: Run, source: Path, tmp_path: Path, form: str, size: int) -> None:
    nir = pytest.importorskip("nir", reason="pip install 'spikemesh[nir]'")
    out = tmp_path / "out.nir"
    code, said, _ = run("export", source, "-o", out, "--format", form)
    assert code == 0 and "left out" in said
    graph = nir.read(out)
    (given,) = graph.inputs.values()
    assert given.input_type["input"].tolist() == [size]
    assert json.loads(graph.metadata["spikemesh.model"]) == CONFIG.to_dict()


def test_nothing_is_replaced_unasked(run: Run, source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    code, _, err = run("export", source, "-o", source)
    assert code == 11 and "--force" in err and source.read_bytes() == before
    assert run("export", source, "-o", tmp_path, "--force")[0] == 11
    assert run("export", source, "-o", source, "--force")[0] == 0
    assert run("generate", source, "--length", "3")[0] == 0


def test_what_is_no_model_is_explained(run: Run, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.safetensors"
    stranger.write_bytes(write_tensors({"a": np.zeros(3, np.float32)}))
    assert run("export", stranger, "-o", tmp_path / "out")[0] == 10
    assert run("export", tmp_path / "nowhere", "-o", tmp_path / "out")[0] == 3
    assert run("export", stranger, "-o", tmp_path / "out", "--format", "onnx")[0] == 2
    assert not (tmp_path / "out").exists()
