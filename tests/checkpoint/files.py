"""Small checkpoints in every container, from plain bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spikemesh.files.container import pack_header
from spikemesh.kernels import ELEMENTS


@dataclass(frozen=True)
class Raw:
    """One tensor as a file has it: the name of its type, its shape, its bytes."""

    element: str
    shape: tuple[int, ...]
    data: bytes

    def __post_init__(self) -> None:
        assert len(self.data) == math.prod(self.shape) * ELEMENTS[self.element].size_bytes


Tensors = Mapping[str, Raw]


def f32(*values: float, shape: tuple[int, ...] | None = None) -> Raw:
    return Raw("F32", (len(values),) if shape is None else shape, np.array(values, "<f4").tobytes())


def i64(*values: int) -> Raw:
    return Raw("I64", (len(values),), np.array(values, "<i8").tobytes())


def values(raw: Raw) -> list[float]:
    """The numbers of an F32 or I64 tensor."""
    return np.frombuffer(raw.data, {"F32": "<f4", "I64": "<i8"}[raw.element]).tolist()  # type: ignore[no-any-return]


def write_safetensors(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> Path:
    """In the order of `tensors`, which need not be that of names or sizes."""
    entries = [(name, raw.element, raw.shape, len(raw.data)) for name, raw in tensors.items()]
    path.write_bytes(pack_header(entries, metadata) + b"".join(raw.data for raw in tensors.values()))
    return path


def read_safetensors(path: Path) -> dict[str, Raw]:
    """Without our own reader: the header's JSON, and where it points to."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header.pop("__metadata__", None)
    return {
        name: Raw(entry["dtype"], tuple(entry["shape"]), data[end:][slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def read_metadata(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})  # type: ignore[no-any-return]


def write_shards(folder: Path, tensors: Tensors, num_shards: int = 2) -> Path:
    """A folder with an index, the tensors dealt out by turns."""
    folder.mkdir()
    weight_map = {}
    for number in range(num_shards):
        name = f"model-{number + 1:05}-of-{num_shards:05}.safetensors"
        mine = {key: tensors[key] for key in list(tensors)[number::num_shards]}
        write_safetensors(folder / name, mine)
        weight_map |= dict.fromkeys(mine, name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def write_torch(path: Path, value: object) -> Path:
    import torch

    torch.save(value, path)
    return path


def torch_tensors(tensors: Tensors) -> dict[str, object]:
    """As torch has them, dictionaries made of the dotted names."""
    import torch

    from spikemesh.checkpoint.torch_file import TYPES

    types = {name: getattr(torch, key.removeprefix("torch.")) for key, name in TYPES.items()}
    nested: dict[str, object] = {}
    for name, raw in tensors.items():
        *parents, leaf = name.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})  # type: ignore[assignment]
        flat = torch.empty(math.prod(raw.shape), dtype=types[raw.element])
        if raw.data:
            flat.view(torch.uint8).numpy()[:] = np.frombuffer(raw.data, np.uint8)
        place[leaf] = flat.reshape(raw.shape)
    return nested


def leftovers(folder: Path) -> Sequence[str]:
    """What an interrupted merge must not leave behind."""
    return sorted(path.name for path in folder.rglob("*.unfinished"))
