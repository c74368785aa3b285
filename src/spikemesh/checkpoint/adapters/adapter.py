"""An opened adapter: pairs of thin factors, each for one tensor of the base, and tensors that were trained in full."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from blake3 import blake3

from spikemesh.checkpoint.adapters.config import CONFIG_NAME, AdapterConfig, read_config
from spikemesh.checkpoint.opening import open_checkpoint
from spikemesh.checkpoint.source import Checkpoint, Tensor
from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.files.rim import os_errors
from spikemesh.kernels import Reals, widen

WEIGHT_NAMES = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<side>[AB])(\.default)?(\.weight)?")
SAVED = re.compile(r"(?P<module>.+?)(\.modules_to_save)?(\.default)?\.(?P<leaf>[^.]+)")
SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two factors whose product, times `scale`, an adapter adds to the tensor `target`: A is [r, in], B [out, r]."""

    target: str
    a: Tensor
    b: Tensor
    scale: float
    kind: Literal["linear", "embedding"] = "linear"

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def is_transposed(self, shape: tuple[int, ...], *, fan_in_fan_out: bool) -> bool | None:
        """Whether the target lies as [in, out]; None if it is of no shape that these factors fit."""
        straight, turned = (self.b.shape[0], self.a.shape[1]), (self.a.shape[1], self.b.shape[0])
        if self.kind == "embedding":
            return True if shape == turned else None
        if straight == turned == shape:
            return fan_in_fan_out
        return {straight: False, turned: True}.get((shape[0], shape[1])) if len(shape) == 2 else None


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One LoRA adapter. Close it when done."""

    path: Path
    checkpoint: Checkpoint
    config: AdapterConfig
    config_text: bytes
    pairs: Mapping[str, Pair] = field(default_factory=dict)
    """By the name of the tensor that they change."""
    saved: Mapping[str, Tensor] = field(default_factory=dict)
    """By the name of the tensor that they stand for, once it was trained in full."""

    @property
    def meaning(self) -> str:
        """A hash of what the configuration means for these tensors: with their content it says what is added."""
        scales = [[pair.target, pair.scale.hex(), self.config.fan_in_fan_out] for _, pair in sorted(self.pairs.items())]
        return blake3(msgspec.json.encode([scales, sorted(self.saved)])).hexdigest()

    @property
    def targets(self) -> Iterator[str]:
        yield from self.pairs
        yield from self.saved

    def close(self) -> None:
        self.checkpoint.close()


def is_adapter(path: Path) -> bool:
    """Whether `path` is the folder of an adapter, or the file of weights in one."""
    folder = path.parent if path.name in WEIGHT_NAMES else path
    with os_errors("opening", path):
        return (folder / CONFIG_NAME).is_file()


def open_adapter(path: Path, stack: ExitStack | None = None) -> Adapter:
    """Open the folder of an adapter, or its file of weights. `stack`, if given, closes it.

    `CheckpointError` for what cannot be merged exactly, `InvalidData` for damaged or hostile bytes.
    """
    folder = path.parent if path.name in WEIGHT_NAMES else path
    config, text = read_config(folder)
    weights = next((folder / name for name in WEIGHT_NAMES if (folder / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{folder} has {CONFIG_NAME} and no {WEIGHT_NAMES[0]}. Download or copy it again.")
    with ExitStack() as opening:
        checkpoint = open_checkpoint(weights)
        opening.callback(checkpoint.close)
        adapter = sort_out(folder, checkpoint, config, text)
        opening.pop_all()
    if stack is not None:
        stack.callback(adapter.close)
    return adapter


def sort_out(path: Path, checkpoint: Checkpoint, config: AdapterConfig, text: bytes) -> Adapter:
    """What each tensor of an adapter is: half of a pair, or one that was trained in full. Nothing may be left over."""
    halves: dict[tuple[str, str], dict[str, Tensor]] = {}
    saved: dict[str, Tensor] = {}
    strange: list[str] = []
    for name, tensor in checkpoint.tensors.items():
        plain = name.removeprefix(PREFIX)
        if (factor := FACTOR.fullmatch(plain)) is not None:
            key = (factor["module"], "embedding" if factor["kind"] else "linear")
            if halves.setdefault(key, {}).setdefault(factor["side"], tensor) is not tensor:
                raise InvalidData(f"{path} has two factors {factor['side']} for {factor['module'][:200]!r}.")
        elif (found := SAVED.fullmatch(plain)) is not None and _is_saved(found["module"], config):
            saved[f"{found['module']}.{found['leaf']}"] = tensor
        else:
            strange.append(name)
    if strange or checkpoint.left_out:
        names = ", ".join(repr(name[:200]) for name in (*strange, *checkpoint.left_out)[:SHOWN])
        raise CheckpointError(
            f"{path} has tensors that are no factors of a LoRA: {names}. It would not be merged exactly without them. "
            "Merge it with PEFT's merge_and_unload."
        )
    pairs = [_pair(path, module, kind, sides, config) for (module, kind), sides in sorted(halves.items())]
    if not pairs and not saved:
        raise CheckpointError(f"{path} has no factors of a LoRA (lora_A and lora_B).")
    return Adapter(
        path=path,
        checkpoint=checkpoint,
        config=config,
        config_text=text,
        pairs={pair.target: pair for pair in pairs},
        saved=dict(sorted(saved.items())),
    )


def _is_saved(module: str, config: AdapterConfig) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in config.saved)


def _pair(path: Path, module: str, kind: str, sides: Mapping[str, Tensor], config: AdapterConfig) -> Pair:
    if set(sides) != {"A", "B"}:
        raise InvalidData(f"{path} has only one of the two factors of {module[:200]!r}. Download or copy it again.")
    a, b, rank = sides["A"], sides["B"], config.rank_of(module)
    for tensor in (a, b):
        if tensor.element.kind != "float" or len(tensor.shape) != 2:
            raise CheckpointError(
                f"{path}: expected a matrix of floats in {tensor.name[:200]!r}, got {tensor.describe()}. Only linear "
                "layers and embeddings can be merged exactly; use PEFT's merge_and_unload for others."
            )
    if (a.shape[0], b.shape[1]) != (rank, rank):
        raise InvalidData(
            f"{path}: {CONFIG_NAME} gives {module[:200]!r} the rank {rank}, and its factors are {a.describe()} and "
            f"{b.describe()}. The scale depends on it; mend the configuration."
        )
    return Pair(
        target=f"{module}.weight",
        a=a,
        b=b,
        scale=config.scale_of(module),
        kind="embedding" if kind == "embedding" else "linear",
    )


def read_matrix(tensor: Tensor, path: Path) -> Reals:
    """The numbers of a tensor, exactly: float64 for double, else float32. `InvalidData` for NaN and infinity."""
    raw = np.empty(tensor.size_bytes, np.uint8)
    tensor.read(0, raw.data)
    values = widen(raw, tensor.element).reshape(tensor.shape)
    if not np.isfinite(values).all():
        raise InvalidData(f"{path} has NaN or an infinity in tensor {tensor.name[:200]!r}. A merge would spread it.")
    return values
