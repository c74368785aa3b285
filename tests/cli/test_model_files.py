"""Model files go through the commands without the folder of a run: written, merged, calibrated, and made to write."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from spikemesh import kernels, merge
from spikemesh.cli import main
from spikemesh.cli.model import calibrate_model_file, load_model_file
from spikemesh.codec import read_metadata, read_tensor_file, write_tensors
from spikemesh.errors import InvalidData
from spikemesh.kernels import native
from spikemesh.snn import Layout, ModelConfig, dense_tensors, generate, initialise, model_metadata, spike_rates
from spikemesh.train import calibration_tokens
from tests.hang import HANG_S

TEXT = Path(argparse.__file__)
CONFIG = ModelConfig(width=32, hidden=64, num_blocks=1, density=0.25)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command in this process: its exit code and what it wrote."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["spikemesh", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of one start, moved apart."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("parents")
    sample = calibration_tokens(np.frombuffer(TEXT.read_bytes(), np.uint8), num_windows=16, num_tokens=64)
    model = initialise(CONFIG, sample.numpy(), seed=1)
    layout, paths = Layout.of(model), []
    start = layout.gather(model)
    for number in range(2):
        noise = np.random.default_rng(number).standard_normal(len(start)).astype(np.float32)
        layout.scatter_(model, start + np.float32(0.2) * noise)
        paths.append(folder / f"parent-{number}.safetensors")
        paths[-1].write_bytes(write_tensors(dense_tensors(model), model_metadata(CONFIG)))
    return paths


@pytest.fixture
def merged(parents: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPIKEMESH_CACHE", str(tmp_path / "cache"))
    merge(parents, out=tmp_path / "merged.safetensors")
    return tmp_path / "merged.safetensors"


def test_generate_reads_a_model_file(run: Run, parents: list[Path]) -> None:
    expected = generate(load_model_file(parents[0]), b"class ", num_bytes=30, temperature=0.7, seed=3)
    code, out, _ = run("generate", parents[0], "--prompt", "class ", "--length", "30", "--seed", "3", "--json")
    assert code == 0
    assert json.loads(out) == {"prompt": "class ", "text": expected.decode(errors="replace")}
    code, out, _ = run("generate", parents[0], "--prompt", "class ", "--length", "30", "--seed", "3")
    assert (code, out) == (0, "class " + expected.decode(errors="replace") + "\n")


def test_generate_reads_a_merged_file(run: Run, parents: list[Path], merged: Path) -> None:
    tensors = [read_tensor_file(path.read_bytes()) for path in (*parents, merged)]
    for name, values in dense_tensors(load_model_file(merged)).items():
        assert np.array_equal(values, tensors[2][name])
        assert np.allclose(values, (tensors[0][name] + tensors[1][name]) / 2, atol=1e-6)
    assert run("generate", merged, "--length", "5")[0] == 0


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_a_model_merged_in_half_precision_still_generates(
    run: Run, parents: list[Path], tmp_path: Path, dtype: str
) -> None:
    out = tmp_path / "half.safetensors"
    merge(parents, out=out, dtype=dtype)
    assert run("generate", out, "--length", "5")[0] == 0
    whole = merge(parents, out=None).tensors
    assert whole is not None
    read = dense_tensors(load_model_file(out))
    assert all(np.allclose(read[name], whole[name], rtol=1e-2, atol=1e-3) for name in whole)


def test_calibration_rewrites_thresholds_and_nothing_else(parents: list[Path], merged: Path) -> None:
    before = merged.read_bytes()
    report = calibrate_model_file(merged, {parents[0]: 3.0, parents[1]: 1.0}, TEXT)
    old, new = read_tensor_file(before), read_tensor_file(merged.read_bytes())
    changed = {name for name in old if old[name].tobytes() != new[name].tobytes()}
    assert changed and changed <= {name for name in old if name.endswith(".threshold")} and old.keys() == new.keys()
    metadata = read_metadata(merged.read_bytes())
    factors = json.loads(metadata.pop("spikemesh.calibrated"))
    assert metadata == read_metadata(before)
    assert factors == {refit.name: refit.factor for refit in report.refits}
    text = np.frombuffer(TEXT.read_bytes(), np.uint8)
    tokens = calibration_tokens(text[: len(text) * 95 // 100])
    first, second, now = (spike_rates(load_model_file(path), tokens) for path in (*parents, merged))
    for refit in report.refits:
        assert refit.target == pytest.approx((3 * first[refit.name] + second[refit.name]) / 4)
        assert refit.after == pytest.approx(now[refit.name], rel=1e-5)


def test_files_that_are_no_models_are_explained(run: Run, parents: list[Path], tmp_path: Path) -> None:
    data = parents[0].read_bytes()
    stranger = write_tensors({"a": np.zeros(3, np.float32)})
    for content in (b"", data[:100], data[:-4], stranger, b"PK\x03\x04" + bytes(100)):
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        code, out, err = run("generate", path)
        assert code == 10 and out == ""
        assert err.startswith(f"spikemesh: {path} holds no model") and len(err.strip().splitlines()) == 1
    code, _, err = run("generate", tmp_path / "nowhere.safetensors")
    assert code == 3 and "nowhere" in err


def test_calibration_leaves_the_file_alone_if_a_parent_is_none_of_ours(parents: list[Path], merged: Path) -> None:
    stranger = merged.parent / "stranger.safetensors"
    stranger.write_bytes(write_tensors({"a": np.zeros(3, np.float32)}))
    before = merged.read_bytes()
    with pytest.raises(InvalidData, match=r"stranger\.safetensors"):
        calibrate_model_file(merged, {parents[0]: 1.0, stranger: 1.0}, TEXT)
    assert merged.read_bytes() == before


def test_generate_rounds_weights_and_measures_the_loss(run: Run, parents: list[Path]) -> None:
    arguments = ("generate", parents[0], "--length", "20", "--temperature", "0", "--loss", TEXT)
    losses = {}
    for weights in ("float", "int8", "int4"):
        code, out, _ = run(*arguments, "--weights", weights, "--json")
        assert code == 0
        losses[weights] = json.loads(out)["loss"]
    assert losses["float"]["rounded_weights"] is None
    plain = losses["float"]["float_weights"]
    assert 2 < plain < 12
    for weights, allowed in (("int8", 0.05), ("int4", 0.5)):
        assert losses[weights]["float_weights"] == plain
        assert 0 < abs(losses[weights]["rounded_weights"] - plain) < allowed
    code, out, _ = run(*arguments, "--weights", "int4")
    expected = f"{plain:.4f} with float weights, {losses['int4']['rounded_weights']:.4f} ("
    assert code == 0 and expected in out.splitlines()[-1] and out.splitlines()[-1].endswith(" with int4")
    assert run("generate", parents[0], "--weights", "int2")[0] == 2
    assert run(*arguments[:-1], TEXT.parent / "nowhere.txt")[0] == 8


@pytest.mark.skipif(native is None, reason="without compiled kernels, torch writes the text")
def test_generate_loads_no_torch(parents: list[Path]) -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        f"sys.argv = ['spikemesh', 'generate', {str(parents[0])!r}, '--length', '3']\n"
        "from spikemesh.cli import main\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=False)
    assert result.returncode == 0, result.stderr


def test_generate_runs_on_torch_without_kernels(run: Run, parents: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("generate", parents[0], "--length", "40", "--seed", "2")
    expected = run(*arguments)
    monkeypatch.setattr(kernels, "native", None)
    monkeypatch.setattr("spikemesh.snn.inference.EventEngine", None)
    assert run(*arguments) == expected
