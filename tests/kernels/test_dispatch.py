"""What the kernels run on, and that it is said when it is not what it could be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from spikemesh.kernels import instruction_set, native
from tests.hang import HANG_S
from tests.kernels.implementations import COMPILED

USE = """
import numpy as np
from spikemesh.kernels import ELEMENTS, Rule, combine, instruction_set, scan
F32 = ELEMENTS["F32"]
data = np.array([1, 2, 3], np.float32).view(np.uint8)
out = np.empty_like(data)
combine(Rule.SUM, [data, data], element=F32, out=out, out_element=F32, weights=[1, 1])
print(instruction_set, out.view(np.float32).tolist(), scan(data, F32).largest)
"""


def python(code: str, wanted: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "SPIKEMESH_KERNELS"}
    if wanted is not None:
        environment["SPIKEMESH_KERNELS"] = wanted
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=HANG_S, check=False
    )


def test_the_kernels_are_compiled_where_there_is_a_compiler() -> None:
    """An install without them succeeds, so that only this test tells that they no longer compile."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None or os.environ.get("SPIKEMESH_KERNELS") == "numpy":
        pytest.skip("there is no C++ compiler here, or NumPy was asked for")
    assert native is not None, f"{compiler} is here, but installing the package has not built the kernels with it"
    assert instruction_set in COMPILED
    assert "generic" in COMPILED


@pytest.mark.parametrize("name", ["numpy", *COMPILED])
def test_the_environment_chooses(name: str) -> None:
    result = python(USE, name)
    assert result.stdout == f"{name} [2.0, 4.0, 6.0] 3.0\n", result.stderr
    assert result.stderr == ""


@pytest.mark.skipif(not COMPILED, reason="there are no compiled kernels here")
def test_the_best_is_chosen_if_nothing_is_asked_for() -> None:
    for wanted in (None, ""):
        assert python(USE, wanted).stdout.startswith(f"{COMPILED[0]} ")


@pytest.mark.skipif(not COMPILED, reason="there are no compiled kernels here")
def test_an_unknown_instruction_set_is_refused() -> None:
    result = python(USE, "avx3")
    choices = ", ".join((*COMPILED, "numpy"))
    assert f"ValueError: expected SPIKEMESH_KERNELS to be one of {choices}, not 'avx3'" in result.stderr
    with pytest.raises(ValueError, match="this machine has no instruction set 'avx3'"):
        native.use_instruction_set("avx3")


def test_missing_kernels_are_said_once_and_numpy_does_their_work() -> None:
    result = python(
        "import sys; sys.modules['spikemesh.kernels._native'] = None\n"
        + USE
        + "import spikemesh.kernels.merge.combine_twin"
    )
    assert result.stdout == "numpy [2.0, 4.0, 6.0] 3.0\n", result.stderr
    assert result.stderr == (
        "The compiled kernels are not there, so NumPy does their work, slowly. Install a C++ compiler (g++ or clang) "
        "and install spikemesh again.\n"
    )
