"""`widen`: raw float elements as NumPy numbers, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spikemesh.kernels.merge.combine_twin import FORMATS, decode
from spikemesh.kernels.merge.elements import Element

Reals = npt.NDArray[np.floating[Any]]
"""float32 or float64."""


def widen(data: npt.NDArray[np.uint8], element: Element) -> Reals:
    """The numbers that raw bytes of float `element`s hold: as float64 for double, else as float32, which holds them."""
    if element.code is None:
        raise ValueError(f"expected a float element type, not {element.name}")
    if element.name == "BF16":
        return (data.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    if element.size_bytes == 1:
        return decode(data, FORMATS[element.code]).astype(np.float32)
    if element.name == "F64":
        return data.view("<f8").astype(np.float64)
    return data.view(element.numpy).astype(np.float32)
