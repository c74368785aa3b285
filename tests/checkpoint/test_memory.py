"""Memory is that of a few stretches: flat in the size and, nearly, in the number of the inputs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from spikemesh.checkpoint import inspect
from spikemesh.files.container import Entry, pack_header
from tests.checkpoint.files import write_torch
from tests.hang import HANG_S

ROOT = Path(__file__).parent.parent.parent
MB = 1 << 20


def write(folder: Path, name: str, size: int) -> Path:
    """Two tensors of `size` bytes together, zero but for a few numbers that tell the files apart."""
    entries: list[Entry] = [(key, "F32", (size // 8,), size // 2) for key in ("v", "w")]
    path = folder / f"{name}.safetensors"
    with path.open("wb") as file:
        header = pack_header(entries)
        file.write(header)
        file.truncate(len(header) + size)
        file.seek(len(header) + size // 2 // 2)  # in the middle of the first one, where samples are taken
        file.write(name.encode().ljust(8, b"?"))
    return path


def peak_bytes(out: Path, *inputs: Path) -> int:
    command = [sys.executable, "-m", "tests.checkpoint.measured_merge", str(out), *map(str, inputs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_is_flat(folder: Path) -> None:
    small = peak_bytes(folder / "1.safetensors", *(write(folder, f"s{i}", 20 * MB) for i in range(2)))
    large = [write(folder, f"l{i}", 200 * MB) for i in range(8)]
    two = peak_bytes(folder / "2.safetensors", *large[:2])
    eight = peak_bytes(folder / "3.safetensors", *large)
    assert two < 20 * MB
    assert abs(two - small) < 8 * MB
    assert eight - two < 6 * 2 * 2 * MB + 8 * MB  # inputs, threads, a stretch
    assert inspect(folder / "3.safetensors").recipe is not None


@pytest.mark.parametrize("turned", [False, True], ids=["as it lies", "transposed"])
def test_memory_of_pytorch_files_is_flat(folder: Path, turned: bool) -> None:
    import torch

    paths = []
    for number in (1, 2):
        tensor = torch.full((2, 20 * MB // 4), float(number))
        paths.append(write_torch(folder / f"{number}.pt", {"w": tensor.t() if turned else tensor}))
    assert peak_bytes(folder / "out.safetensors", *paths) < 40 * MB
