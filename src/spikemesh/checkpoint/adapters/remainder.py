"""The file beside a result from which adapters can be taken out again without the base and without the other adapters.

    codes/<tensor>     u8: the corrections of its stretches, one after the other (corrections.py)
    sizes/<tensor>     i64: how long each of them is
    adapter/<n>/<name> the adapters' own tensors, in the order of the recipe
    metadata           the result's checksum and recipe, the base's metadata and types, the adapters' configurations

The base follows from these and the result: what all adapters added is taken away exactly, rounded, and corrected.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from spikemesh.checkpoint.adapters.adapter import Adapter, sort_out
from spikemesh.checkpoint.adapters.config import parse_config
from spikemesh.checkpoint.adapters.corrections import apply_corrections, encode_corrections
from spikemesh.checkpoint.adapters.engine import STRETCH, as_element
from spikemesh.checkpoint.adapters.factors import Stack, Weighted
from spikemesh.checkpoint.adapters.plan import ChangedTensor
from spikemesh.checkpoint.opening import open_checkpoint
from spikemesh.checkpoint.output import Output
from spikemesh.checkpoint.source import Checkpoint, Tensor, TensorInfo
from spikemesh.checkpoint.windows import Buffers, Bytes, Stretch
from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.files.rim import os_errors
from spikemesh.kernels import ELEMENTS, add_products

REMAINDER_KEY = "spikemesh.remainder"
FORMAT = 1
COPY_BYTES = 1 << 20
LARGEST_PIECE = 10 * STRETCH
"""More than a bitmap and eight bytes for every element take."""


def remainder_path(out: Path) -> Path:
    """Where the remainder of a result lies: beside it."""
    return out.with_name(f"{out.name.removesuffix('.safetensors')}.remainder.safetensors")


class _Said(msgspec.Struct):
    format: int
    checksum: str
    recipe: str
    base: dict[str, str]
    types: dict[str, str]
    configs: list[str]


@dataclass
class RemainderWriter:
    """Keeps corrections, in any order and from any thread, in a file of its own until their sizes are known."""

    folder: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        with os_errors("writing", self.folder):
            spool = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
        self._spool: IO[bytes] = spool
        self._places: dict[str, dict[int, tuple[int, int]]] = {}
        self._end = 0

    def keep(self, tensor: ChangedTensor, stretch: Stretch, base: Bytes, predicted: Bytes) -> None:
        piece = encode_corrections(base, predicted, tensor.base.element)
        with self._lock, os_errors("writing", self.folder):
            self._places.setdefault(tensor.name, {})[stretch.start] = (self._end, len(piece))
            self._spool.write(piece)
            self._end += len(piece)

    def finish(
        self,
        path: Path,
        adapters: Sequence[Adapter],
        *,
        checksum: str,
        recipe: str,
        base: Checkpoint,
        dtype: str,
        force: bool,
    ) -> int:
        """Write the file; its size in bytes. `adapters` come in the order of the recipe."""
        said = _Said(
            format=FORMAT,
            checksum=checksum,
            recipe=recipe,
            base=dict(base.metadata),
            types={name: t.element.name for name, t in base.tensors.items() if dtype != "keep"},
            configs=[adapter.config_text.decode() for adapter in adapters],
        )
        metadata = {REMAINDER_KEY: msgspec.json.encode(said).decode()}
        output = Output(path, self._table(adapters), metadata, force=force)
        try:
            self._write(output, adapters)
            output.finish(metadata)
        finally:
            output.discard()
        with os_errors("reading", path):
            return path.stat().st_size

    def _table(self, adapters: Sequence[Adapter]) -> list[TensorInfo]:
        names = sorted(self._places)
        kept = [(f"sizes/{name}", ELEMENTS["I64"], (len(self._places[name]),)) for name in names]
        total = {name: sum(size for _, size in self._places[name].values()) for name in names}
        codes = [(f"codes/{name}", ELEMENTS["U8"], (total[name],)) for name in names]
        factors = [
            (f"adapter/{number}/{tensor.name}", tensor.element, tensor.shape)
            for number, adapter in enumerate(adapters)
            for tensor in adapter.checkpoint.tensors.values()
        ]
        table = [TensorInfo(name=name, element=e, shape=shape) for name, e, shape in (*kept, *factors, *codes)]
        return sorted(table, key=lambda tensor: -tensor.element.size_bytes)

    def _write(self, output: Output, adapters: Sequence[Adapter]) -> None:
        for name, places in self._places.items():
            in_order = [places[start] for start in sorted(places)]
            sizes = np.array([size for _, size in in_order], "<i8")
            output.write(f"sizes/{name}", 0, sizes.view(np.uint8))
            done = 0
            for at, size in in_order:
                self._spool.seek(at)
                output.write(f"codes/{name}", done, np.frombuffer(self._spool.read(size), np.uint8))
                done += size
        buffer = np.empty(COPY_BYTES, np.uint8)
        for number, adapter in enumerate(adapters):
            for tensor in adapter.checkpoint.tensors.values():
                for start in range(0, tensor.size_bytes, COPY_BYTES):
                    part = buffer[: min(COPY_BYTES, tensor.size_bytes - start)]
                    tensor.read(start, part.data)
                    output.write(f"adapter/{number}/{tensor.name}", start, part)

    def close(self) -> None:
        self._spool.close()


@dataclass(frozen=True, kw_only=True)
class Remainder:
    """An opened remainder."""

    checkpoint: Checkpoint
    checksum: str
    """Of the result that it belongs to."""
    recipe: str
    base_metadata: Mapping[str, str]
    types: Mapping[str, str]
    """Of the base's tensors, where the result may have another type."""
    adapters: Sequence[Adapter]
    """All that were merged, in the order of the recipe."""


def open_remainder(path: Path, stack: ExitStack) -> Remainder:
    """`InvalidData` if it is none or damaged."""
    checkpoint = open_checkpoint(path)
    stack.callback(checkpoint.close)
    try:
        said = msgspec.json.decode(checkpoint.metadata.get(REMAINDER_KEY, ""), type=_Said)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidData(f"{path} is not the remainder of a merge ({error!s:.200}).") from error
    if said.format != FORMAT:
        raise InvalidData(f"{path} is a remainder of format {said.format}; this version reads {FORMAT}.")
    adapters = [_adapter(checkpoint, number, text.encode()) for number, text in enumerate(said.configs)]
    return Remainder(
        checkpoint=checkpoint,
        checksum=said.checksum,
        recipe=said.recipe,
        base_metadata=said.base,
        types=said.types,
        adapters=adapters,
    )


def _adapter(checkpoint: Checkpoint, number: int, text: bytes) -> Adapter:
    prefix = f"adapter/{number}/"
    tensors = {
        name.removeprefix(prefix): replace(tensor, name=name.removeprefix(prefix))
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(prefix)
    }
    part = Checkpoint(path=checkpoint.path, tensors=tensors, files=checkpoint.files)
    return sort_out(checkpoint.path, part, parse_config(text, checkpoint.path), text)


class Restored:
    """The base, from a result and its remainder: what the adapters added is taken away, and what is lost put back."""

    def __init__(
        self, out: Checkpoint, remainder: Remainder, weighted: Weighted, tensors: Sequence[ChangedTensor]
    ) -> None:
        """`tensors` is the plan by which all adapters were merged into the base."""
        self._out = out
        self._remainder = remainder
        self._tensors = {tensor.name: tensor for tensor in tensors}
        self._weighted = weighted.negated
        self._lock = threading.Lock()
        self._current: Stack | None = None
        self._ends: dict[str, list[int]] = {}

    @property
    def path(self) -> Path:
        return self._out.path

    def read(self, tensor: ChangedTensor, stretch: Stretch, buffers: Buffers) -> Bytes:
        was = self._tensors[tensor.name]
        width = was.result.element.size_bytes
        merged = buffers(-3, stretch.count * width)
        self._out.tensors[tensor.name].read(stretch.start * width, merged.data)
        if was.is_copy:
            return merged
        if was.saved:
            predicted = as_element(merged, was.result.element, was.base.element)
        else:
            predicted = buffers(-4, stretch.count * was.base.element.size_bytes)
            add_products(
                merged,
                self._stack(was).factors(),
                element=was.result.element,
                start=stretch.start,
                out=predicted,
                out_element=was.base.element,
            )
        return apply_corrections(predicted, self._piece(tensor.name, stretch), was.base.element)

    def _stack(self, tensor: ChangedTensor) -> Stack:
        """One for all workers on a tensor, and given up for the next one's."""
        with self._lock:
            if self._current is None or self._current.tensor is not tensor:
                self._current = Stack(tensor, self._weighted)
            return self._current

    def _piece(self, name: str, stretch: Stretch) -> bytes:
        codes = self._tensor(f"codes/{name}")
        with self._lock:
            if name not in self._ends:
                self._ends[name] = self._read_ends(name, codes.size_bytes)
            ends = self._ends[name]
        number = stretch.start // STRETCH
        if number + 1 >= len(ends):
            raise InvalidData(f"{self._remainder.checkpoint.path} lacks a part of {name[:200]!r}.")
        size = ends[number + 1] - ends[number]
        if size > LARGEST_PIECE:
            raise InvalidData(f"{self._remainder.checkpoint.path} has a part of {name[:200]!r} that is too long.")
        piece = bytearray(size)
        codes.read(ends[number], memoryview(piece))
        return bytes(piece)

    def _read_ends(self, name: str, num_bytes: int) -> list[int]:
        sizes = self._tensor(f"sizes/{name}")
        raw = np.empty(sizes.size_bytes, np.uint8)
        sizes.read(0, raw.data)
        values = raw.view("<i8").tolist() if sizes.element.name == "I64" else [-1]
        if min(values, default=0) < 0 or sum(values) != num_bytes:
            raise InvalidData(f"{self._remainder.checkpoint.path} has a damaged table for {name[:200]!r}.")
        return [0, *np.cumsum(values).tolist()]

    def _tensor(self, name: str) -> Tensor:
        found = self._remainder.checkpoint.tensors.get(name)
        if found is None:
            raise CheckpointError(f"{self._remainder.checkpoint.path} has no {name[:200]!r}: it is of another merge.")
        return found
