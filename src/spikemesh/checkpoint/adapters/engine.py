"""The long work: every tensor of the base read once, its adapters added, and handed on, stretch by stretch.

Memory is the stacked factors of one or two tensors and a few stretches, whatever the size of the model.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from spikemesh.checkpoint.adapters.factors import Stack, Weighted
from spikemesh.checkpoint.adapters.plan import ChangedTensor
from spikemesh.checkpoint.content import CHECKSUM, TreeHash
from spikemesh.checkpoint.engine import Sink
from spikemesh.checkpoint.source import Checkpoint
from spikemesh.checkpoint.windows import Buffers, Bytes, Stretch, for_each, stretches
from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.kernels import ELEMENTS, Element, Factors, ProductCounts, Rule, add_products, combine, widen
from spikemesh.progress import SILENT, Progress

STRETCH = 1 << 20
"""Elements: enough rows that preparing the factors costs little, and whole pieces of a hash for any type."""


class Predicted(Protocol):
    """Is shown what can be told of the base from the result and all adapters, to keep the rest."""

    def keep(self, tensor: ChangedTensor, stretch: Stretch, base: Bytes, predicted: Bytes) -> None: ...


class Base(Protocol):
    """Where the base's bytes come from."""

    @property
    def path(self) -> Path: ...

    def read(self, tensor: ChangedTensor, stretch: Stretch, buffers: Buffers) -> Bytes:
        """The raw elements of a stretch, valid until the next call with these buffers."""


@dataclass(frozen=True)
class Opened:
    """A base that is at hand."""

    checkpoint: Checkpoint

    @property
    def path(self) -> Path:
        return self.checkpoint.path

    def read(self, tensor: ChangedTensor, stretch: Stretch, buffers: Buffers) -> Bytes:
        size = tensor.base.element.size_bytes
        data = buffers(0, stretch.count * size)
        self.checkpoint.tensors[tensor.name].read(stretch.start * size, data.data)
        return data


@dataclass
class Tally:
    """What the long work has counted."""

    num_elements: int = 0
    """Of tensors that some adapter changes."""
    wide: int = 0
    """Of these: so near to where the rounding turns that wide integers had to decide."""


@dataclass
class AdapterEngine:
    """One run. Afterwards `tally` and the hashes are complete."""

    base: Base
    weighted: Weighted
    tensors: Sequence[ChangedTensor]
    sink: Sink
    progress: Progress = SILENT
    predicted: Predicted | None = None
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self.base_hash = TreeHash({tensor.name: tensor.base for tensor in self.tensors})
        self.checksum = TreeHash({tensor.name: tensor.result for tensor in self.tensors}, CHECKSUM)

    def run(self, num_threads: int | None = None) -> None:
        """Do all of it, once. Raises `InvalidData` or `CheckpointError` that names the tensor."""
        count = num_threads or len(os.sched_getaffinity(0))  # they multiply, and hardly wait for the disk
        for_each(self._tasks(), lambda task, buffers: task(buffers), num_threads=count)

    def _tasks(self) -> Iterator[Callable[[Buffers], None]]:
        for tensor in self.tensors:
            stack = Stack(tensor, self.weighted)
            for stretch in stretches(tensor.base.num_elements, STRETCH):
                yield partial(self._merge, tensor, stack, stretch)

    def _merge(self, tensor: ChangedTensor, stack: Stack, stretch: Stretch, buffers: Buffers) -> None:
        base = self.base.read(tensor, stretch, buffers)
        self.base_hash.add(tensor.name, stretch.start * tensor.base.element.size_bytes, base)
        start, size = (n * tensor.result.element.size_bytes for n in (stretch.start, stretch.count))
        out = buffers(-1, size, lie=self.sink.lie(tensor.name, start))
        if tensor.is_copy:
            out[:] = base
        elif tensor.saved:
            self._replace(tensor, stretch, base, out)
        else:
            predicted = None if self.predicted is None else buffers(-2, len(base))
            self._add(tensor, stack, stretch, base, out, predicted)
            if self.predicted is not None and predicted is not None:
                self.predicted.keep(tensor, stretch, base, predicted)
        if tensor.saved and self.predicted is not None:
            guess = as_element(out, tensor.result.element, tensor.base.element)
            self.predicted.keep(tensor, stretch, base, guess)
        self.checksum.add(tensor.name, start, out)
        self.sink.write(tensor.name, start, out)
        self.progress.advance(len(base))

    def _add(
        self, tensor: ChangedTensor, stack: Stack, stretch: Stretch, base: Bytes, out: Bytes, predicted: Bytes | None
    ) -> None:
        counts = add_products(
            base,
            stack.factors(),
            element=tensor.base.element,
            start=stretch.start,
            out=out,
            out_element=tensor.result.element,
            predicted=predicted,
        )
        self._check(tensor, stretch, counts)
        with self._lock:
            self.tally.num_elements += stretch.count
            self.tally.wide += counts.wide

    def _replace(self, tensor: ChangedTensor, stretch: Stretch, base: Bytes, out: Bytes) -> None:
        """base + sum of weight * (what was trained in full - base), by the kernel that merges whole checkpoints."""
        elements = [tensor.base.element, *(other.element for _, other in tensor.saved)]
        common = ELEMENTS["F64" if any(e.name == "F64" for e in elements) else "F32"]
        values = [as_element(base, tensor.base.element, common)]
        for number, other in tensor.saved:
            raw = np.empty(stretch.count * other.element.size_bytes, np.uint8)
            other.read(stretch.start * other.element.size_bytes, raw.data)
            if not np.isfinite(widen(raw, other.element)).all():
                raise InvalidData(
                    f"{self.weighted.adapters[number].path} has NaN or an infinity in {other.name[:200]!r}."
                )
            values.append(as_element(raw, other.element, common))
        weights = [self.weighted.integers[number] for number, _ in tensor.saved]
        if min(weights) <= 0 or sum(weights) + self.weighted.divisor > 1 << 28:
            raise CheckpointError(
                f"{tensor.name[:200]!r} was trained in full by an adapter, which takes positive weights of few digits."
            )
        counts = combine(
            Rule.SUM,
            values[1:],
            element=common,
            out=out,
            out_element=tensor.result.element,
            weights=weights,
            divisor=self.weighted.divisor,
            base=values[0],
        )
        self._check(
            tensor,
            stretch,
            ProductCounts(nonzero=0, wide=0, first_bad=counts.first_bad_base, first_overflow=counts.first_overflow),
        )

    def _check(self, tensor: ChangedTensor, stretch: Stretch, counts: ProductCounts) -> None:
        if counts.first_bad >= 0:
            raise InvalidData(
                f"{self.base.path} has NaN or an infinity in tensor {tensor.name[:200]!r}, at element "
                f"{stretch.start + counts.first_bad}, which adapters change."
            )
        if counts.first_overflow >= 0:
            raise CheckpointError(
                f"the result is beyond the range of {tensor.result.element.name} in tensor {tensor.name[:200]!r}, at "
                f"element {stretch.start + counts.first_overflow}. Choose a wider type, such as --dtype f32."
            )


NOTHING = np.zeros(0, np.float32)


def as_element(data: Bytes, of: Element, to: Element) -> Bytes:
    """Raw elements in another float type, rounded once to nearest even."""
    if of == to:
        return data
    nothing = Factors(
        left_MK=NOTHING.reshape(0, 0),
        right_KN=NOTHING.reshape(0, 1),
        weights_K=np.zeros(0, np.int64),
        scales_K=np.zeros(0),
        divisor=1,
        reach_K=np.zeros(0),
    )
    out = np.empty(len(data) // of.size_bytes * to.size_bytes, np.uint8)
    add_products(data, nothing, element=of, start=0, out=out, out_element=to)
    return out
