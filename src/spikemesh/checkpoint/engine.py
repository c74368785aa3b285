"""The long work: every tensor of the inputs read once, hashed, combined and handed on, stretch by stretch.

Memory is one stretch per input and processor, whatever the size of the model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from spikemesh.checkpoint.content import CHECKSUM, PIECE_BYTES, TreeHash
from spikemesh.checkpoint.elements import Terms, is_not_finite, largest, positive, settle, widened
from spikemesh.checkpoint.plan import BASE_NUMBER, MergedTensor
from spikemesh.checkpoint.rows import MatchedTensor, Run
from spikemesh.checkpoint.slerp import Angles, find_angles
from spikemesh.checkpoint.source import Checkpoint, Tensor
from spikemesh.checkpoint.windows import Buffers, Bytes, Stretch, for_each, stretches
from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.kernels import Counts, Element, Rule, combine, scan
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
    non_finite: dict[str, int] = field(default_factory=dict)
    """By tensor: NaN and infinities that are in the result."""
    chosen_integers: dict[str, int] = field(default_factory=dict)
    """By tensor that is no float: elements that differ between the inputs, of which one was chosen."""


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """Opened checkpoints and how to combine them."""

    inputs: Sequence[Checkpoint]
    base: Checkpoint | None
    mask: Checkpoint | None
    tensors: Sequence[MergedTensor]
    allow_non_finite: bool = False

    @property
    def input_bytes(self) -> int:
        return sum(checkpoint.size_bytes for checkpoint in (*self.inputs, *self.beside))

    @property
    def beside(self) -> Sequence[Checkpoint]:
        return [checkpoint for checkpoint in (self.base, self.mask) if checkpoint is not None]


class Engine:
    """One run over the ingredients. After `run`, `tally` and the hashes are complete."""

    def __init__(self, ingredients: Ingredients, sink: Sink, progress: Progress = SILENT) -> None:
        self._ingredients = ingredients
        self._sink = sink
        self._progress = progress
        self._lock = threading.Lock()
        self._angles: Angles = {}
        self.tally = Tally()
        self.input_hashes = [TreeHash(checkpoint.tensors) for checkpoint in ingredients.inputs]
        self.base_hash = _hash_of(ingredients.base)
        self.mask_hash = _hash_of(ingredients.mask)
        self.checksum = TreeHash({tensor.name: tensor.result for tensor in ingredients.tensors}, CHECKSUM)

    def run(self, num_threads: int | None = None) -> None:
        """Do all of it, once. Raises what a worker raised: `InvalidData` or `CheckpointError` that names the tensor."""
        self._angles = find_angles(self._ingredients.tensors, num_threads)
        for_each(self._tasks(), lambda task, buffers: task(buffers), num_threads=num_threads)

    def _tasks(self) -> Iterator[Callable[[Buffers], None]]:
        """What is not float comes first: it is little, and where it differs that is known at once."""
        for tensor in sorted(self._ingredients.tensors, key=lambda tensor: tensor.element.kind == "float"):
            for stretch in stretches(tensor.result.num_elements, PIECE_BYTES // tensor.smallest_element_bytes):
                yield partial(self._merge, tensor, stretch)
        used = {id(source) for tensor in self._ingredients.tensors for source in _all_sources(tensor)}
        for checkpoint, collected in self._hashed():
            for rest in checkpoint.tensors.values():  # of no use here, but part of the content
                for stretch in () if id(rest) in used else stretches(rest.size_bytes, PIECE_BYTES):
                    yield partial(self._hash_only, rest, stretch, collected)

    def _hashed(self) -> Iterator[tuple[Checkpoint, TreeHash]]:
        yield from zip(self._ingredients.inputs, self.input_hashes, strict=True)
        for checkpoint, collected in (
            (self._ingredients.base, self.base_hash),
            (self._ingredients.mask, self.mask_hash),
        ):
            if checkpoint is not None and collected is not None:
                yield checkpoint, collected

    def _hash_only(self, tensor: Tensor, stretch: Stretch, collected: TreeHash, buffers: Buffers) -> None:
        self._read(tensor, stretch.start, stretch.count, collected, buffers(0, stretch.count))

    def _read(self, tensor: Tensor, start: int, size: int, collected: TreeHash, buffer: Bytes) -> Bytes:
        """Bytes start..start+size of a tensor, hashed on the way."""
        tensor.read(start, buffer.data)
        if not isinstance(tensor, MatchedTensor):  # that is read a second time, as it lies in the file
            collected.add(tensor.name, start, buffer)
            self._progress.advance(size)
        return buffer

    def _merge(self, tensor: MergedTensor, stretch: Stretch, buffers: Buffers) -> None:
        values = [
            self._values(source, stretch, self._hash_at(number), buffers, slot)
            for slot, (number, source) in enumerate(tensor.sources)
        ]
        width = tensor.result.element.size_bytes
        out_start = stretch.start * width
        out = buffers(-1, stretch.count * width, lie=self._sink.lie(tensor.name, out_start))
        if tensor.copied:
            self._copy(tensor, stretch, values[0], out)
        elif tensor.element.kind == "float":
            self._combine(tensor, stretch, values, out, buffers)
        else:
            out[:] = self._agreed(tensor, stretch, values)
        self.checksum.add(tensor.name, out_start, out)
        self._sink.write(tensor.name, out_start, out)

    def _hash_at(self, number: int) -> TreeHash:
        found = self.base_hash if number == BASE_NUMBER else self.input_hashes[number]
        assert found is not None
        return found

    def _values(self, source: Tensor, stretch: Stretch, collected: TreeHash, buffers: Buffers, slot: int) -> Bytes:
        width = source.element.size_bytes
        length = stretch.count * width
        return self._read(source, stretch.start * width, length, collected, buffers(slot, length))

    def _copy(self, tensor: MergedTensor, stretch: Stretch, data: Bytes, out: Bytes) -> None:
        """As it is, also what is not finite; in another type if the result has one."""
        element, out_element = tensor.element, tensor.result.element
        if element == out_element:
            out[:] = data
        else:
            counts = combine(Rule.MEAN, [data], element=element, out=out, out_element=out_element, weights=[1])
            self._require_in_range(tensor, stretch, counts)
            self._count_at(self.tally.vanished, tensor, counts.vanished)
            settle([data], element, out, out_element, spread=False)
        if element.kind == "float":
            seen = scan(out, out_element)
            self._count(tensor, num_floats=stretch.count, held=seen.nonzero, nonzero=seen.nonzero)
            self._count_at(self.tally.non_finite, tensor, seen.non_finite)

    def _combine(
        self, tensor: MergedTensor, stretch: Stretch, values: Sequence[Bytes], out: Bytes, buffers: Buffers
    ) -> None:
        base = mask = None
        if tensor.base is not None and self.base_hash is not None:
            base = self._values(tensor.base, stretch, self.base_hash, buffers, -2)
            base = widened(base, tensor.base.element, tensor.element)
        if tensor.mask is not None and self.mask_hash is not None:
            mask = self._values(tensor.mask, stretch, self.mask_hash, buffers, -3)
            mask = _nonzero(mask, tensor.mask.element)
        values = [
            widened(data, source.element, tensor.element)
            for data, (_, source) in zip(values, tensor.sources, strict=True)
        ]
        if tensor.rows is None:
            self._combined(tensor, stretch, values, base, mask, out)
            return
        for run in tensor.rows.runs(stretch):
            self._combine_run(tensor, run, stretch.start, values, base, out)

    def _combine_run(
        self, tensor: MergedTensor, run: Run, start: int, values: Sequence[Bytes], base: Bytes | None, out: Bytes
    ) -> None:
        """Elements in rows that the same inputs have, from these inputs alone."""

        def part(data: Bytes, element: Element) -> Bytes:
            first = (run.stretch.start - start) * element.size_bytes
            return data[first : first + run.stretch.count * element.size_bytes]

        result = part(out, tensor.result.element)
        own_base = part(base, tensor.element) if base is not None and run.has_base else None
        if run.holders:
            own = replace(
                tensor,
                sources=tuple(tensor.sources[i] for i in run.holders),
                weights=[tensor.weights[i] for i in run.holders],
            )
            own_values = [part(values[i], tensor.element) for i in run.holders]
            self._combined(own, run.stretch, own_values, own_base, None, result)
        elif own_base is not None:
            self._copy(tensor, run.stretch, own_base, result)
        else:
            result[:] = 0
            self._count(tensor, num_floats=run.stretch.count, nonzero=0)

    def _combined(
        self,
        tensor: MergedTensor,
        stretch: Stretch,
        values: Sequence[Bytes],
        base: Bytes | None,
        mask: Bytes | None,
        out: Bytes,
    ) -> None:
        weights, divisor = self._angles.get(tensor.name, (tensor.weights, tensor.divisor))
        added = [*values, *([base] if base is not None else [])]
        terms = (
            Terms(values, weights, base)
            if min(weights) > 0
            else positive(values, weights, divisor, base, tensor.element)
        )
        counts = combine(
            tensor.rule,
            terms.values,
            element=tensor.element,
            out=out,
            out_element=tensor.result.element,
            weights=terms.weights,
            divisor=divisor,
            base=terms.base,
            mask=mask,
        )
        if max(*counts.first_bad, counts.first_bad_base) >= 0:
            self._settle(tensor, stretch, added, out)
        else:
            self._require_in_range(tensor, stretch, counts)
        self._count(tensor, num_floats=stretch.count, held=counts.held, nonzero=counts.nonzero)
        self._count_at(self.tally.vanished, tensor, counts.vanished)

    def _settle(self, tensor: MergedTensor, stretch: Stretch, values: Sequence[Bytes], out: Bytes) -> None:
        """What is not finite: kept where all have the same bits, spread where that is asked for, or an error."""
        element, allowed = tensor.result.element, self._ingredients.allow_non_finite
        beyond = is_not_finite(out, element)
        if beyond.any():
            self._raise_beyond(tensor, stretch.start + int(beyond.argmax()))
        bad = settle(values, tensor.element, out, element, spread=allowed)
        if bad.any():
            self._raise_not_finite(tensor, stretch, values, bad)
        num = int(np.count_nonzero(is_not_finite(out, element)))
        self._count(tensor, nonzero=num)
        self._count_at(self.tally.non_finite, tensor, num)

    def _count(self, tensor: MergedTensor, *, nonzero: int, held: int = 0, num_floats: int = 0) -> None:
        with self._lock:
            self.tally.held += held
            self.tally.nonzero += nonzero
            self.tally.num_floats += num_floats

    def _count_at(self, counts: dict[str, int], tensor: MergedTensor, num: int) -> None:
        if num:
            with self._lock:
                counts[tensor.name] = counts.get(tensor.name, 0) + num

    def _raise_not_finite(
        self, tensor: MergedTensor, stretch: Stretch, values: Sequence[Bytes], bad: npt.NDArray[np.bool_]
    ) -> None:
        paths = [self._ingredients.inputs[number].path for number, _ in tensor.sources]
        if len(values) > len(paths) and self._ingredients.base is not None:
            paths.append(self._ingredients.base.path)
        at = int(bad.argmax())
        here = slice(at * tensor.element.size_bytes, (at + 1) * tensor.element.size_bytes)
        path = next(p for p, v in zip(paths, values, strict=True) if is_not_finite(v[here], tensor.element)[0])
        raise InvalidData(
            f"{path} has NaN or an infinity in tensor {tensor.name[:200]!r}, at element {stretch.start + at}, and not "
            f"all inputs have the same there. A merge would spread it; `spikemesh inspect {path}` counts them. Leave "
            "the tensor out (--skip), take it from one input (--take), or let it spread (--allow-non-finite)."
        )

    def _require_in_range(self, tensor: MergedTensor, stretch: Stretch, counts: Counts) -> None:
        if counts.first_overflow >= 0 and max(*counts.first_bad, counts.first_bad_base) < 0:
            self._raise_beyond(tensor, stretch.start + counts.first_overflow)

    def _raise_beyond(self, tensor: MergedTensor, element: int) -> None:
        raise CheckpointError(
            f"the result is beyond the range of {tensor.result.element.name} in tensor {tensor.name[:200]!r}, at "
            f"element {element}. Choose a wider type, such as --dtype f32."
        )

    def _agreed(self, tensor: MergedTensor, stretch: Stretch, values: Sequence[Bytes]) -> Bytes:
        """Integers and booleans have no mean: all inputs have the same, or one is chosen as was asked for."""
        inputs, numbers = self._ingredients.inputs, [number for number, _ in tensor.sources]
        if tensor.element.kind == "bool":
            for number, data in zip(numbers, values, strict=True):
                if (data > 1).any():
                    path = inputs[number].path
                    raise InvalidData(f"{path} has other than 0 and 1 in the BOOL tensor {tensor.name[:200]!r}.")
        if all(np.array_equal(values[0], other) for other in values[1:]):
            return values[0]
        if tensor.integers == "refuse":
            self._raise_differing(tensor, stretch, values)
        larger, num_differing = largest(values, tensor.element)
        self._count_at(self.tally.chosen_integers, tensor, num_differing)
        return values[numbers.index(tensor.integers)] if isinstance(tensor.integers, int) else larger

    def _raise_differing(self, tensor: MergedTensor, stretch: Stretch, values: Sequence[Bytes]) -> None:
        inputs, numbers = self._ingredients.inputs, [number for number, _ in tensor.sources]
        place = next(i for i, other in enumerate(values) if not np.array_equal(values[0], other))
        at = int(np.flatnonzero(values[0] != values[place])[0]) // tensor.element.size_bytes
        raise CheckpointError(
            f"the {tensor.element.name} tensor {tensor.name[:200]!r} differs between {inputs[numbers[0]].path} and "
            f"{inputs[numbers[place]].path}, first at element {stretch.start + at}. Integers have no mean: choose "
            "(--integers max or first), take it from one input (--take), or leave the tensor out (--skip)."
        )


def _all_sources(tensor: MergedTensor) -> Sequence[Tensor]:
    beside = (tensor.base, tensor.mask)
    return [*(source for _, source in tensor.sources), *(source for source in beside if source is not None)]


def _hash_of(checkpoint: Checkpoint | None) -> TreeHash | None:
    return None if checkpoint is None else TreeHash(checkpoint.tensors)


def _nonzero(data: Bytes, element: Element) -> Bytes:
    """One byte per element, 0 where that is zero; a float's zero may have a sign."""
    bits = data.view(f"<u{element.size_bytes}")
    if element.kind == "float":
        bits = bits << 1
    return bits if element.size_bytes == 1 else (bits != 0).view(np.uint8)
