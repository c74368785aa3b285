"""What is in a checkpoint: every tensor looked through once, in bounded memory."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spikemesh.checkpoint.adapters.recipe import AdapterLeaf
from spikemesh.checkpoint.content import CHECKSUM, PIECE_BYTES, TreeHash
from spikemesh.checkpoint.elements import num_infinite
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.opening import open_checkpoint
from spikemesh.checkpoint.recipe import CHECKSUM_KEY, Leaf
from spikemesh.checkpoint.recorded import AnyRecipe, read_any_recipe
from spikemesh.checkpoint.source import Checkpoint, Tensor
from spikemesh.checkpoint.windows import Buffers, Stretch, for_each, stretches
from spikemesh.kernels import scan
from spikemesh.progress import SILENT, Progress


@dataclass(frozen=True, kw_only=True)
class TensorReport:
    """One tensor. Counts are of elements; `smallest` and `largest` are over finite ones, 0 if there are none."""

    name: str
    element: str
    shape: tuple[int, ...]
    num_elements: int
    num_nonzero: int
    num_nan: int
    num_infinite: int
    smallest: float
    largest: float

    @property
    def num_non_finite(self) -> int:
        return self.num_nan + self.num_infinite

    @property
    def density(self) -> float:
        return self.num_nonzero / self.num_elements if self.num_elements else 0.0


@dataclass(frozen=True, kw_only=True)
class InspectReport:
    """A checkpoint's tensors in name order, and what it was merged from."""

    path: Path
    content: str
    checksum: str
    size_bytes: int
    tensors: tuple[TensorReport, ...]
    left_out: tuple[str, ...]
    recipe: AnyRecipe | None
    unchanged: bool
    """For a merged file: it still is what was written then."""
    found: dict[str, Path | None]
    """Where this machine saw the files that it was merged from, by content."""

    @property
    def leaves(self) -> list[Leaf | AdapterLeaf]:
        """What it was merged from, in the recipe's order."""
        leaves: list[Leaf | AdapterLeaf] = [] if self.recipe is None else [*self.recipe.leaves]
        return sorted(leaves, key=lambda leaf: (leaf.content, leaf.weight))

    @property
    def num_elements(self) -> int:
        return sum(tensor.num_elements for tensor in self.tensors)

    @property
    def num_nonzero(self) -> int:
        return sum(tensor.num_nonzero for tensor in self.tensors)

    @property
    def num_non_finite(self) -> int:
        return sum(tensor.num_non_finite for tensor in self.tensors)

    @property
    def density(self) -> float:
        return self.num_nonzero / self.num_elements if self.num_elements else 0.0


class _Sums:
    """The parts of one tensor added up, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.nonzero = self.nan = self.infinite = 0
        self.bounds: tuple[float, float] | None = None

    def add(self, nonzero: int, nan: int, infinite: int, bounds: tuple[float, float] | None) -> None:
        with self._lock:
            self.nonzero += nonzero
            self.nan += nan
            self.infinite += infinite
            if bounds is not None:
                low, high = self.bounds or bounds
                self.bounds = min(low, bounds[0]), max(high, bounds[1])


def inspect(path: str | Path, *, progress: Progress = SILENT, num_threads: int | None = None) -> InspectReport:
    """Read all of a checkpoint and say what is in it. `InvalidData` or `CheckpointError` if it is none."""
    known = KnownFiles()
    with closing(open_checkpoint(Path(path))) as checkpoint:
        sums = {name: _Sums() for name in checkpoint.tensors}
        content, checksum = TreeHash(checkpoint.tensors), TreeHash(checkpoint.tensors, CHECKSUM)

        def look(item: tuple[Tensor, Stretch], buffers: Buffers) -> None:
            tensor, stretch = item
            data = buffers(0, stretch.count)
            tensor.read(stretch.start, data.data)
            content.add(tensor.name, stretch.start, data)
            checksum.add(tensor.name, stretch.start, data)
            sums[tensor.name].add(*_look(tensor, data))
            progress.advance(stretch.count)

        progress.begin(f"reading {checkpoint.path.name}", checkpoint.size_bytes)
        tensors = checkpoint.tensors.values()
        for_each(((t, s) for t in tensors for s in stretches(t.size_bytes, PIECE_BYTES)), look, num_threads=num_threads)
        return _report(checkpoint, sums, content.hexdigest(), checksum.hexdigest(), known)


def _look(tensor: Tensor, data: np.ndarray) -> tuple[int, int, int, tuple[float, float] | None]:
    """Nonzero elements, NaN, infinities, and the bounds of the finite ones, if there are any."""
    if tensor.element.kind == "float":
        seen = scan(data, tensor.element)
        finite = len(data) // tensor.element.size_bytes - seen.non_finite
        infinite = num_infinite(data, tensor.element) if seen.non_finite else 0
        return seen.nonzero, seen.non_finite - infinite, infinite, (seen.smallest, seen.largest) if finite else None
    values = data.view("u1" if tensor.element.kind == "bool" else tensor.element.numpy)
    return int(np.count_nonzero(values)), 0, 0, (float(values.min()), float(values.max())) if len(values) else None


def _report(
    checkpoint: Checkpoint, sums: dict[str, _Sums], content: str, checksum: str, known: KnownFiles
) -> InspectReport:
    recipe = read_any_recipe(checkpoint.metadata, path=checkpoint.path)
    known.remember(checkpoint, content)
    reports = []
    for name, tensor in checkpoint.tensors.items():
        low, high = sums[name].bounds or (0.0, 0.0)
        reports.append(
            TensorReport(
                name=name,
                element=tensor.element.name,
                shape=tensor.shape,
                num_elements=tensor.num_elements,
                num_nonzero=sums[name].nonzero,
                num_nan=sums[name].nan,
                num_infinite=sums[name].infinite,
                smallest=low,
                largest=high,
            )
        )
    return InspectReport(
        path=checkpoint.path,
        content=content,
        checksum=checksum,
        size_bytes=checkpoint.size_bytes,
        tensors=tuple(reports),
        left_out=checkpoint.left_out,
        recipe=recipe,
        unchanged=recipe is not None and checkpoint.metadata.get(CHECKSUM_KEY) == checksum,
        found={leaf.content: known.find(leaf.content) for leaf in recipe.leaves} if recipe else {},
    )
