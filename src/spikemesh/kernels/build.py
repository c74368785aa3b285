"""The compiled kernels, if the package was installed with a C++ compiler; None if not, which is said once."""

from __future__ import annotations

import logging
import os
from typing import Any

native: Any = None

try:
    if os.environ.get("SPIKEMESH_KERNELS") != "numpy":
        from spikemesh.kernels import _native as native
except ImportError:
    logging.getLogger("spikemesh").warning(
        "The compiled kernels are not there, so NumPy does their work, slowly. Install a C++ compiler (g++ or clang) "
        "and install spikemesh again."
    )

instruction_set: str = "numpy" if native is None else native.instruction_set
"""What the kernels run on: avx512, avx2, generic, or numpy where they are not compiled."""
