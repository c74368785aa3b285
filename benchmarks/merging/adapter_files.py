"""A base in bf16 and adapters as PEFT saves them, with random values, written in bounded memory."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from spikemesh.files.container import pack_header

RANK, ALPHA = 16, 32
POOL = 1 << 22
WINDOW = 1 << 20
Words = npt.NDArray[np.uint16]


def shape(num_layers: int, width: int, inner: int, vocabulary: int) -> dict[str, tuple[int, int]]:
    """A Llama with an eighth of its heads for keys and values; the projections are what adapters change."""
    found = {"model.embed_tokens.weight": (vocabulary, width), "lm_head.weight": (vocabulary, width)}
    for layer in range(num_layers):
        at = f"model.layers.{layer}"
        for name in ("q", "o"):
            found[f"{at}.self_attn.{name}_proj.weight"] = (width, width)
        for name in ("k", "v"):
            found[f"{at}.self_attn.{name}_proj.weight"] = (width // 8, width)
        for name in ("gate", "up"):
            found[f"{at}.mlp.{name}_proj.weight"] = (inner, width)
        found[f"{at}.mlp.down_proj.weight"] = (width, inner)
    return found


def write_base(path: Path, tensors: Mapping[str, tuple[int, int]]) -> None:
    """Normal values of deviation 0.02."""
    _write(path, {name: (size, 0.02) for name, size in tensors.items()}, np.random.default_rng(0))


def write_adapter(folder: Path, tensors: Mapping[str, tuple[int, int]], number: int) -> None:
    """Rank 16 on every projection, in bf16."""
    folder.mkdir(exist_ok=True)
    factors = {}
    for name, (out, into) in tensors.items():
        if name.startswith("model.layers"):
            module = "base_model.model." + name.removesuffix(".weight")
            factors[f"{module}.lora_A.weight"] = ((RANK, into), 0.02)
            factors[f"{module}.lora_B.weight"] = ((out, RANK), 0.005)
    _write(folder / "adapter_model.safetensors", factors, np.random.default_rng(1 + number))
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def _write(path: Path, tensors: Mapping[str, tuple[tuple[int, int], float]], rng: np.random.Generator) -> None:
    pool = rng.standard_normal(POOL, np.float32)
    pools = {deviation: _halves(pool * deviation) for deviation in {d for _, d in tensors.values()}}
    entries = [(name, "BF16", size, 2 * math.prod(size)) for name, (size, _) in tensors.items()]
    with path.open("wb", buffering=0) as file:
        file.write(pack_header(entries, {"format": "pt"}))
        for size, deviation in tensors.values():
            _write_values(file, pools[deviation], math.prod(size), rng)


def _write_values(file: IO[bytes], pool: Words, count: int, rng: np.random.Generator) -> None:
    for start in range(0, count, WINDOW):
        size = min(WINDOW, count - start)
        at = int(rng.integers(0, POOL - size))
        file.write(pool[at : at + size].tobytes())


def _halves(values: npt.NDArray[np.float32]) -> Words:
    """bf16, cut off: these values are random anyway."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)
