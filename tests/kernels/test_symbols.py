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
def objects() -> dict[Path, str]:
    """The objects and their instruction sets."""
    require_commands("nm", "objdump")
    commands = native_driver().compile_commands()
    return {obj: words[[word[:6] for word in words].index("-DISA=")][6:] for obj, words in commands}


def test_every_source_is_compiled_for_every_set(objects: dict[Path, str]) -> None:
    counts = Counter(objects.values())
    assert counts["generic"] >= 9 and len(set(counts.values())) == 1


def test_nothing_weak_is_defined(objects: dict[Path, str]) -> None:
    assert {obj.name: weak for obj in objects if (weak := _defined(obj, WEAK))} == {}


def test_every_name_is_in_the_namespace_of_its_set(objects: dict[Path, str]) -> None:
    for obj, instruction_set in objects.items():
        names = _defined(obj, GLOBAL)
        assert names, obj
        for name in names:
            assert name.startswith(f"spikemesh::{instruction_set}::"), (obj, name)


def test_nothing_runs_when_the_module_is_loaded(objects: dict[Path, str]) -> None:
    for obj in objects:
        sections = _sections(obj)
        assert ".text" in sections
        assert ".init_array" not in sections and ".ctors" not in sections, obj
