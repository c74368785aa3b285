"""Adapters as PEFT saves them, and what merging them exactly means, in fractions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Matrix = np.ndarray[Any, Any]
SHAPES = {"l.q_proj.weight": (12, 8), "l.k_proj.weight": (5, 9)}


def write_base(path: Path, *, seed: int = 0, dtype: Any = np.float16) -> dict[str, Matrix]:
    """A base with two targets, a norm, a negative zero and integers."""
    rng = np.random.default_rng(seed)
    tensors = {name: rng.normal(0, 0.1, shape).astype(dtype) for name, shape in SHAPES.items()}
    tensors["l.q_proj.weight"][0, 0] = -0.0
    tensors |= {"norm.weight": np.array([1, -0.0, 3], dtype), "ids": np.arange(4)}
    save_file(tensors, path, metadata={"format": "pt", "said": "by the base"})
    return tensors


def write_adapter(
    folder: Path,
    *,
    seed: int,
    rank: int = 3,
    alpha: float = 8,
    dtype: Any = np.float32,
    shapes: Mapping[str, tuple[int, int]] = SHAPES,
    tensors: Mapping[str, Matrix] | None = None,
    **config: object,
) -> dict[str, Matrix]:
    """A folder with adapter_config.json and adapter_model.safetensors; the tensors in it."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    found: dict[str, Matrix] = dict(tensors or {})
    for name, (out, into) in shapes.items():
        module = "base_model.model." + name.removesuffix(".weight")
        found[f"{module}.lora_A.weight"] = rng.normal(0, 0.3, (rank, into)).astype(dtype)
        found[f"{module}.lora_B.weight"] = rng.normal(0, 0.3, (out, rank)).astype(dtype)
    save_file(found, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, **config}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return found
