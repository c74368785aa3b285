"""Checkpoints to merge: safetensors files with random values behind random masks, written in bounded memory.

All values come from a pool of 2^24 that is drawn once per kind (weight, first moment, second moment); each stretch of
a tensor is the pool from a random position on. Where a weight is masked its moments are zero too. Matrices are sparse,
vectors and scalars dense, and buffers are the same in every file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

ZEROS = 0.93
POOL = 1 << 24
TABLE = Path(__file__).parent / "spiking_lm_1b.json"
BYTES = {"F32": 4, "I64": 8}
BUFFER = "buffer"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint. `kind` is weight, exp_avg, exp_avg_sq or buffer; `source` names its mask."""

    name: str
    dtype: str
    kind: str
    shape: tuple[int, ...]
    source: str

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_values * BYTES[self.dtype]


def real_shape() -> list[Entry]:
    """The published model with two fp32 moments per parameter: 13.07e9 bytes, which is 12.2 GiB."""
    table = json.loads(TABLE.read_text())["tensors"]
    entries = []
    for name, dtype, role, shape in table:
        kinds = ("weight", "exp_avg", "exp_avg_sq") if role == "param" else (BUFFER,)
        for kind in kinds:
            prefix = kind if kind.startswith("exp") else "model"
            entries.append(Entry(f"{prefix}.{name}", dtype, kind, tuple(shape), name))
    return entries


def layers(num_bytes: int, num_layers: int = 60) -> list[Entry]:
    """`num_layers` square fp32 matrices that together take about `num_bytes`."""
    side = math.isqrt(num_bytes // 4 // num_layers)
    names = [f"layer.{n}.weight" for n in range(num_layers)]
    return [Entry(name, "F32", "weight", (side, side), name) for name in names]


def write(path: Path, entries: Sequence[Entry], *, values: int, mask: int | None, zeros: float = ZEROS) -> Path:
    """Write a checkpoint, unless it is there; `values` and `mask` are seeds. Without `mask` all values are zero."""
    # Eight-byte types first, so that everything is aligned.
    entries = sorted(entries, key=lambda entry: (-BYTES[entry.dtype], entry.name))
    header = _header(entries)
    if path.exists() and path.stat().st_size == len(header) + sum(entry.num_bytes for entry in entries):
        return path
    pools = _pools(values, mask, zeros, {entry.kind for entry in entries})
    partial = path.with_suffix(".partial")
    with partial.open("wb", buffering=0) as file:
        file.write(header)
        for entry in entries:
            for stretch in _stretches(entry, pools, 0 if mask is None else mask):
                _write_all(file, stretch)
        os.fsync(file.fileno())
    partial.rename(path)
    return path


def save(path: Path, tensors: dict[str, npt.NDArray[np.float32]]) -> Path:
    """Write given fp32 tensors."""
    with path.open("wb", buffering=0) as file:
        file.write(_header([Entry(name, "F32", "weight", values.shape, name) for name, values in tensors.items()]))
        for values in tensors.values():
            _write_all(file, values)
    return path


def layout(path: Path) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """Each tensor's type, shape, and first and last byte in the file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {
        name: (item["dtype"], tuple(item["shape"]), *(8 + size + offset for offset in item["data_offsets"]))
        for name, item in header.items()
    }


def read(path: Path) -> dict[str, Array]:
    """All tensors of a small checkpoint. Its types are ours or the peers' (crdt-merge writes F64)."""
    types = {"F32": np.float32, "F64": np.float64, "I64": np.int64}
    data = path.read_bytes()
    return {
        name: np.frombuffer(data[begin:end], types[dtype]).reshape(shape)
        for name, (dtype, shape, begin, end) in layout(path).items()
    }


def _pools(values: int, mask: int | None, zeros: float, kinds: set[str]) -> dict[str, Array]:
    """Values of each kind, sparse for matrices and (name with a star) dense for vectors."""
    held = None if mask is None else np.random.default_rng(mask).random(POOL, dtype=np.float32) >= zeros
    pools = {BUFFER: np.random.default_rng(0).standard_normal(POOL >> 4, dtype=np.float32)}
    for kind in sorted(kinds - {BUFFER}):
        rng = np.random.default_rng([values, *kind.encode()])
        if held is None:
            pools[kind] = pools[f"{kind}*"] = np.zeros(POOL, np.float32)
            continue
        pools[f"{kind}*"] = _draw(rng, kind, POOL >> 4)
        pools[kind] = np.zeros(POOL, np.float32)
        pools[kind][held] = _draw(rng, kind, int(np.count_nonzero(held)))
    return pools


def _draw(rng: np.random.Generator, kind: str, size: int) -> Array:
    drawn = rng.standard_normal(size, dtype=np.float32)
    drawn[drawn == 0] = 1
    if kind == "exp_avg_sq":
        return np.maximum(drawn * drawn * np.float32(1e-6), np.float32(1e-20))
    return drawn * np.float32(1e-3 if kind == "exp_avg" else 0.02)


def _stretches(entry: Entry, pools: dict[str, Array], mask: int) -> Iterator[Array]:
    """The values of one tensor, as parts of pools."""
    if entry.dtype == "I64":
        yield np.arange(entry.num_values, dtype=np.int64) // 16
        return
    dense = "*" if len(entry.shape) < 2 and entry.kind != BUFFER else ""
    pool = pools[entry.kind + dense]
    rng = np.random.default_rng([0 if entry.kind == BUFFER else mask, *entry.source.encode()])
    left = entry.num_values
    while left:
        start = int(rng.integers(len(pool)))
        stretch = pool[start : start + left]
        yield stretch
        left -= len(stretch)


def _header(entries: Sequence[Entry]) -> bytes:
    header: dict[str, object] = {}
    offset = 0
    for entry in entries:
        end = offset + entry.num_bytes
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_all(file: IO[bytes], values: Array) -> None:
    """An unbuffered write may take less than it is given (2 GB at most)."""
    rest = memoryview(np.ascontiguousarray(values)).cast("B")
    while rest:
        rest = rest[file.write(rest) :]
