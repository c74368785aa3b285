"""What is compiled for one instruction set stays apart from the others, and runs only once it has been chosen.

A linker keeps one of several weak functions of the same name, whichever comes first: if the order is unlucky, one with
instructions that an older processor does not have. What runs when the module is loaded runs on every processor.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.kernels.driver import native_driver, require_commands

# https://sourceware.org/binutils/docs/binutils/nm.html
WEAK = "VWu"
GLOBAL = "ABCDGRST"
PERSONALITY = "DW.ref.__gxx_personality_v0"
"""A pointer that unwinding needs, the same in all objects, and no instructions."""


def _defined(obj: Path, kinds: str) -> list[str]:
    out = subprocess.run(["nm", "-C", "--defined-only", obj], capture_output=True, text=True, check=True).stdout
    symbols = (line.split(maxsplit=2)[1:] for line in out.splitlines())
    return [name for kind, name in symbols if kind in kinds and name != PERSONALITY]


def _sections(obj: Path) -> str:
    return subprocess.run(["objdump", "-h", obj], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def shipped() -> dict[Path, str]:
    """The objects and their instruction sets."""
    require_commands("nm", "objdump")
    return {obj: _set_of(words) for obj, words, _ in native_driver().compile_commands()}


@pytest.fixture(scope="module")
def inlining_nothing(shipped: dict[Path, str], tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    """The same from a compiler that leaves every function behind that another one, or its next version, might leave."""
    folder, result = tmp_path_factory.mktemp("objects"), {}
    for number, (obj, words, directory) in enumerate(native_driver().compile_commands()):
        again = folder / f"{number}-{obj.name}"
        subprocess.run([*words, "-O0", "-w", "-o", again], cwd=directory, check=True)
        result[again] = shipped[obj]
    return result


def _set_of(words: list[str]) -> str:
    return next(word for word in words if word.startswith("-DISA=")).removeprefix("-DISA=")


def test_every_source_is_compiled_for_every_set(shipped: dict[Path, str]) -> None:
    counts = Counter(shipped.values())
    assert counts["generic"] >= 9 and len(set(counts.values())) == 1


def test_nothing_weak_is_defined(shipped: dict[Path, str]) -> None:
    assert {obj: weak for obj in shipped if (weak := _defined(obj, WEAK))} == {}


@pytest.mark.parametrize("objects", ["shipped", "inlining_nothing"])
def test_every_name_tells_its_set(objects: str, request: pytest.FixtureRequest) -> None:
    for obj, instruction_set in request.getfixturevalue(objects).items():
        names = _defined(obj, GLOBAL + WEAK)
        assert names, obj
        others = [name for name in names if f"spikemesh::{instruction_set}::" not in name]
        assert others == [], f"{obj} defines what other sets may use, or have too"


@pytest.mark.parametrize("objects", ["shipped", "inlining_nothing"])
def test_nothing_runs_when_the_module_is_loaded(objects: str, request: pytest.FixtureRequest) -> None:
    for obj in request.getfixturevalue(objects):
        sections = _sections(obj)
        assert ".text" in sections
        assert ".init_array" not in sections and ".ctors" not in sections, obj
