"""The long work: every tensor of the inputs read once, hashed, combined and handed on, stretch by stretch.

Memory is one stretch per input and processor, whatever the size of the model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from spikemesh.checkpoint.content import CHECKSUM, PIECE_BYTES, TreeHash
from spikemesh.checkpoint.plan import MergedTensor
from spikemesh.checkpoint.source import Checkpoint, Tensor
from spikemesh.checkpoint.windows import Buffers, Bytes, Stretch, for_each, stretches
from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.kernels import Counts, Element, Rule, combine
from spikemesh.progress import SILENT, Progress


class Sink(Protocol):
    """Where the result's bytes go, in no order, from any worker."""

    def lie(self, name: str, start: int) -> int:
        """Where in a page of memory the tensor's bytes from `start` on should lie, to be taken without a copy."""

    def write(self, name: str, start: int, data: Bytes) -> None:
        """Take bytes of a tensor; `data` is valid during the call."""


@dataclass
class Tally:
    """What the long work has counted so far."""

    held: int = 0
    """Coordinates of float tensors that some input holds."""
    nonzero: int = 0
    """Coordinates of float tensors that are not zero in the result."""
    num_floats: int = 0
    """Coordinates of float tensors."""
    vanished: dict[str, int] = field(default_factory=dict)
    """By tensor: values too small for the result's type, which became zero."""


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """Opened checkpoints and how to combine them; `integers` are the weights, in the order of `inputs`."""

    inputs: Sequence[Checkpoint]
    integers: Sequence[int]
    divisor: int
    rule: Rule
    base: Checkpoint | None
    mask: Checkpoint | None
    tensors: Sequence[MergedTensor]

    @property
    def input_bytes(self) -> int:
        beside = [c for c in (self.base, self.mask) if c is not None]
        return sum(checkpoint.size_bytes for checkpoint in (*self.inputs, *beside))


class Engine:
    """One run over the ingredients. After `run`, `tally` and the hashes are complete."""

    def __init__(self, ingredients: Ingredients, sink: Sink, progress: Progress = SILENT) -> None:
        self._ingredients = ingredients
        self._sink = sink
        self._progress = progress
        self._lock = threading.Lock()
        self.tally = Tally()
        self.input_hashes = [TreeHash(checkpoint.tensors) for checkpoint in ingredients.inputs]
        self.base_hash = _hash_of(ingredients.base)
        self.mask_hash = _hash_of(ingredients.mask)
        self.checksum = TreeHash({tensor.name: tensor.result for tensor in ingredients.tensors}, CHECKSUM)

    def run(self, num_threads: int | None = None) -> None:
        """Do all of it, once. Raises what a worker raised: `InvalidData` or `CheckpointError` that names the tensor."""
        for_each(self._tasks(), lambda task, buffers: task(buffers), num_threads=num_threads)

    def _tasks(self) -> Iterator[Callable[[Buffers], None]]:
        for tensor in self._ingredients.tensors:
            for stretch in stretches(tensor.result.num_elements, PIECE_BYTES // tensor.smallest_element_bytes):
                yield partial(self._merge, tensor, stretch)
        used = {id(extra) for tensor in self._ingredients.tensors for extra in (tensor.base, tensor.mask)}
        for checkpoint, collected in (
            (self._ingredients.base, self.base_hash),
            (self._ingredients.mask, self.mask_hash),
        ):
            if checkpoint is None or collected is None:
                continue
            for rest in checkpoint.tensors.values():  # of no use here, but part of the content
                for stretch in () if id(rest) in used else stretches(rest.size_bytes, PIECE_BYTES):
                    yield partial(self._hash_only, rest, stretch, collected)

    def _hash_only(self, tensor: Tensor, stretch: Stretch, collected: TreeHash, buffers: Buffers) -> None:
        self._read(tensor, stretch.start, stretch.count, collected, buffers(0, stretch.count))

    def _read(self, tensor: Tensor, start: int, size: int, collected: TreeHash, buffer: Bytes) -> Bytes:
        """Bytes start..start+size of a tensor, hashed on the way."""
        tensor.read(start, buffer.data)
        collected.add(tensor.name, start, buffer)
        self._progress.advance(size)
        return buffer

    def _merge(self, tensor: MergedTensor, stretch: Stretch, buffers: Buffers) -> None:
        size = tensor.element.size_bytes
        start, length = stretch.start * size, stretch.count * size
        values = [
            self._read(source, start, length, self.input_hashes[number], buffers(slot, length))
            for slot, (number, source) in enumerate(tensor.sources)
        ]
        width = tensor.result.element.size_bytes
        out_start = stretch.start * width
        out = buffers(-1, stretch.count * width, lie=self._sink.lie(tensor.name, out_start))
        if tensor.element.kind == "float":
            self._combine(tensor, stretch, values, out, buffers)
        else:
            out[:] = self._agreed(tensor, stretch, values)
        self.checksum.add(tensor.name, out_start, out)
        self._sink.write(tensor.name, out_start, out)

    def _combine(
        self, tensor: MergedTensor, stretch: Stretch, values: Sequence[Bytes], out: Bytes, buffers: Buffers
    ) -> None:
        base = mask = None
        if tensor.base is not None and self.base_hash is not None:
            start, length = stretch.start * tensor.element.size_bytes, len(values[0])
            base = self._read(tensor.base, start, length, self.base_hash, buffers(-2, length))
        if tensor.mask is not None and self.mask_hash is not None:
            element = tensor.mask.element
            start, length = stretch.start * element.size_bytes, stretch.count * element.size_bytes
            mask = _nonzero(self._read(tensor.mask, start, length, self.mask_hash, buffers(-3, length)), element)
        counts = combine(
            self._ingredients.rule,
            values,
            element=tensor.element,
            out=out,
            out_element=tensor.result.element,
            weights=[self._ingredients.integers[number] for number, _ in tensor.sources],
            divisor=self._ingredients.divisor,
            base=base,
            mask=mask,
        )
        self._check(tensor, stretch, counts)
        with self._lock:
            self.tally.held += counts.held
            self.tally.nonzero += counts.nonzero
            self.tally.num_floats += stretch.count
            if counts.vanished:
                self.tally.vanished[tensor.name] = self.tally.vanished.get(tensor.name, 0) + counts.vanished

    def _check(self, tensor: MergedTensor, stretch: Stretch, counts: Counts) -> None:
        paths = [self._ingredients.inputs[number].path for number, _ in tensor.sources]
        if self._ingredients.base is not None:
            paths.append(self._ingredients.base.path)
        for path, first in zip(paths, (*counts.first_bad, counts.first_bad_base), strict=False):
            if first >= 0:
                raise InvalidData(
                    f"{path} has NaN or an infinity in tensor {tensor.name[:200]!r}, at element "
                    f"{stretch.start + first}. A merge would spread it; `spikemesh inspect {path}` counts them."
                )
        if counts.first_overflow >= 0:
            raise CheckpointError(
                f"the result is beyond the range of {tensor.result.element.name} in tensor {tensor.name[:200]!r}, at "
                f"element {stretch.start + counts.first_overflow}. Choose a wider type, such as --dtype f32."
            )

    def _agreed(self, tensor: MergedTensor, stretch: Stretch, values: Sequence[Bytes]) -> Bytes:
        """Integers and booleans have no mean: all inputs must have the same."""
        first = self._ingredients.inputs[tensor.sources[0][0]]
        if tensor.element.kind == "bool" and (values[0] > 1).any():
            raise InvalidData(f"{first.path} has other than 0 and 1 in the BOOL tensor {tensor.name[:200]!r}.")
        for (number, _), other in zip(tensor.sources[1:], values[1:], strict=True):
            if not np.array_equal(values[0], other):
                at = int(np.flatnonzero(values[0] != other)[0]) // tensor.element.size_bytes
                raise CheckpointError(
                    f"the {tensor.element.name} tensor {tensor.name[:200]!r} differs between {first.path} and "
                    f"{self._ingredients.inputs[number].path}, first at element {stretch.start + at}. "
                    "Integers have no mean: make them equal, or leave the tensor out."
                )
        return values[0]


def _hash_of(checkpoint: Checkpoint | None) -> TreeHash | None:
    return None if checkpoint is None else TreeHash(checkpoint.tensors)


def _nonzero(data: Bytes, element: Element) -> Bytes:
    """One byte per element, 0 where that is zero; a float's zero may have a sign."""
    bits = data.view(f"<u{element.size_bytes}")
    if element.kind == "float":
        bits = bits << 1
    return bits if element.size_bytes == 1 else (bits != 0).view(np.uint8)
