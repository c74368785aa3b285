"""The kernels without Python: `cpp/driver.cpp`, built from the objects that ship, runs one of them on fixed inputs."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.machine import cannot

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).parent / "cpp"
BUILD = ROOT / "build" / "kernel_driver"

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Driver:
    folder: Path
    emulator: tuple[str, ...] = ()

    def run(self, instruction_set: str, kernel: str, rate: float = 0.15) -> tuple[int, Arrays]:
        """How much work the kernel's call is, and what it wrote, by name."""
        command = [*self.emulator, self.folder / "driver", instruction_set, kernel, str(rate)]
        out = subprocess.run(command, capture_output=True, check=True, timeout=600).stdout
        first, _, rest = out.partition(b"\n")
        return int(first.removeprefix(b"work ")), dict(_arrays(rest))

    def count_instructions(self, instruction_set: str, kernel: str, rate: float) -> int:
        """Of one call, by callgrind."""
        command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=measured"]
        command += [str(self.folder / "driver"), instruction_set, kernel, str(rate)]
        result = subprocess.run(command, capture_output=True, timeout=600)
        found = re.search(rb"Collected : (\d+)", result.stderr)
        assert result.returncode == 0 and found, result.stderr.decode(errors="replace")
        return int(found[1])

    def names(self, kind: str) -> list[str]:
        """Of each "set" or "kernel" that it has."""
        out = subprocess.run(
            [*self.emulator, self.folder / "driver"], capture_output=True, text=True, check=True, timeout=600
        ).stdout
        return [name for word, name in map(str.split, out.splitlines()) if word == kind]

    def compile_commands(self) -> list[tuple[Path, list[str], Path]]:
        """What compiles each source for each instruction set: the object, the command without its name, and where."""
        commands = []
        for entry in json.loads((self.folder / "compile_commands.json").read_text()):
            words = entry["command"].split()
            at = words.index("-o")
            if any(word.startswith("-DISA=") for word in words):
                directory = Path(entry["directory"])
                commands.append((directory / words[at + 1], words[:at] + words[at + 2 :], directory))
        return commands


def _arrays(data: bytes) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    while data:
        header, _, data = data.partition(b"\n")
        name, kind, count = header.decode().split()
        values = np.frombuffer(data, kind, int(count))
        yield name, values
        data = data[values.nbytes :]


def require_commands(*names: str) -> None:
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        cannot(f"lacks {', '.join(missing)}")


@functools.cache
def native_driver() -> Driver:
    require_commands("cmake", "g++")
    return Driver(folder=_build("native", []))


@functools.cache
def aarch64_driver() -> Driver:
    require_commands("cmake", "aarch64-linux-gnu-g++", "qemu-aarch64")
    options = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
    options += ["-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++"]
    return Driver(folder=_build("aarch64", options), emulator=("qemu-aarch64",))


def _build(name: str, options: Sequence[str]) -> Path:
    """Builds what has changed since the last time; two test processes take turns."""
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    with (BUILD / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            ["cmake", "-S", SOURCE, "-B", folder, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", *options],
            ["cmake", "--build", folder, "--parallel", str(os.cpu_count() or 1)],
        ):
            result = subprocess.run(command, capture_output=True, text=True)
            assert result.returncode == 0, result.stdout + result.stderr
    return folder
