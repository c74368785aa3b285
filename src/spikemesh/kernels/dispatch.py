"""The one choice between compiled kernels and their NumPy twins. A package without the first says so, once."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import Any

native: Any = None
"""The compiled module; None where the package was installed without a C++ compiler, or NumPy was asked for."""

instruction_set: str = "numpy"
"""What the kernels run on: avx512, avx2, generic, or numpy where they are not compiled.

The best that this machine has, or what the environment variable SPIKEMESH_KERNELS names.
"""

_wanted = os.environ.get("SPIKEMESH_KERNELS", "")
if _wanted != "numpy":
    try:
        native = import_module("spikemesh.kernels._native")
    except ImportError:
        logging.getLogger("spikemesh").warning(
            "The compiled kernels are not there, so NumPy does their work, slowly. Install a C++ compiler (g++ or "
            "clang) and install spikemesh again."
        )
    else:
        instruction_set = _wanted or native.instruction_sets[0]
        if instruction_set not in native.instruction_sets:
            choices = ", ".join((*native.instruction_sets, "numpy"))
            raise ValueError(f"expected SPIKEMESH_KERNELS to be one of {choices}, not {_wanted!r}")
        native.use_instruction_set(instruction_set)


def implementation(twin: str) -> Any:
    """The compiled module, or the module of NumPy twins, such as `merge.combine_twin`, loaded only where it has work.

    Both offer the same names and take the same arguments.
    """
    return native if native is not None else import_module(f"spikemesh.kernels.{twin}")
