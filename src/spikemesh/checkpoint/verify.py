"""Is a merged file what its inputs give? Everything is computed again, and every bit compared."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spikemesh.checkpoint.adapters.adapter import is_adapter
from spikemesh.checkpoint.engine import Engine
from spikemesh.checkpoint.gather import Gathering
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.leaves import check_contents
from spikemesh.checkpoint.merge import carried_metadata, result_metadata
from spikemesh.checkpoint.naming import is_index
from spikemesh.checkpoint.recipe import ADAPTERS_KEY, read_recipe
from spikemesh.checkpoint.recorded import AnyRecipe
from spikemesh.checkpoint.safetensors_file import open_safetensors
from spikemesh.checkpoint.source import Checkpoint, TensorInfo
from spikemesh.checkpoint.windows import Bytes
from spikemesh.errors import CheckpointError
from spikemesh.progress import SILENT, Progress

IN_METADATA = "__metadata__."


@dataclass(frozen=True)
class Difference:
    """The first element of a tensor at which the file is not what its inputs give, or a text of its metadata."""

    tensor: str
    """Its name; `IN_METADATA` and a key for what stands beside the tensors."""
    element: int
    expected: str
    """Bytes of the element in hexadecimal, or what the table should say."""
    seen: str


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """`differences` is empty if the file is what its inputs give, to the bit."""

    recipe: AnyRecipe
    num_tensors: int
    num_bytes: int
    differences: tuple[Difference, ...]
    """One per tensor that differs, in name order."""


class Comparison:
    """A sink of the engine that compares instead of writing."""

    def __init__(self, merged: Checkpoint) -> None:
        self._merged = merged
        self._lock = threading.Lock()
        self.first: dict[str, Difference] = {}

    def lie(self, name: str, start: int) -> int:
        return 0

    def write(self, name: str, start: int, data: Bytes) -> None:
        tensor = self._merged.tensors[name]
        seen = np.empty(len(data), np.uint8)
        tensor.read(start, seen.data)
        if np.array_equal(seen, data):
            return
        width = tensor.element.size_bytes
        at = int(np.flatnonzero(seen != data)[0]) // width
        here = slice(at * width, (at + 1) * width)
        element = start // width + at
        found = Difference(name, element, bytes(data[here]).hex(), bytes(seen[here]).hex())
        with self._lock:
            if name not in self.first or element < self.first[name].element:
                self.first[name] = found


def verify(
    merged: str | Path,
    inputs: Sequence[str | Path],
    *,
    base: str | Path | None = None,
    mask_from: str | Path | None = None,
    progress: Progress = SILENT,
    num_threads: int | None = None,
) -> VerifyReport:
    """Merge `inputs` again, as `merged` says that it was made, and compare. Inputs that are left out are looked for
    where this machine saw them last.

    `CheckpointError` if `merged` records no merge, or other files than these.
    """
    with ExitStack() as stack:
        known = KnownFiles()
        gathering = Gathering(stack, known, progress)
        if is_adapter(Path(merged)):
            from spikemesh.checkpoint.adapters.verify import verify_stack  # it compares by what stands here

            if base is not None or mask_from is not None:
                raise CheckpointError(f"{merged} is an adapter, which has neither base nor mask. Leave them out.")
            return verify_stack(Path(merged), inputs, progress=progress)
        opened = gathering.open(Path(merged))
        recipe = read_recipe(opened.metadata, path=opened.path)
        if ADAPTERS_KEY in opened.metadata:
            from spikemesh.checkpoint.adapters.verify import verify_adapters  # it compares by what stands here

            return verify_adapters(opened, inputs, base=base, progress=progress, num_threads=num_threads)
        if recipe is None:
            raise CheckpointError(
                f"{merged} does not say that it was merged from anything, so there is nothing to compare."
            )
        gathered = gathering.from_recipe(
            recipe,
            [Path(path) for path in inputs],
            base=None if base is None else Path(base),
            mask=None if mask_from is None else Path(mask_from),
        )
        differences = table_differences(opened, [tensor.result for tensor in gathered.ingredients.tensors])
        comparison = Comparison(opened)
        if not differences:
            engine = Engine(gathered.ingredients, comparison, progress)
            progress.begin("verifying", gathered.ingredients.input_bytes)
            engine.run(num_threads)
            check_contents(gathered, [collected.hexdigest() for collected in engine.input_hashes], known)
            checksum = engine.checksum.hexdigest()
            expected = result_metadata(carried_metadata(gathered.leaves), recipe, checksum)
            differences = [*comparison.first.values(), *metadata_differences(opened, expected)]
        return VerifyReport(
            recipe=recipe,
            num_tensors=len(opened.tensors),
            num_bytes=opened.size_bytes,
            differences=tuple(sorted(differences, key=lambda difference: difference.tensor)),
        )


def table_differences(merged: Checkpoint, expected: Sequence[TensorInfo]) -> list[Difference]:
    """Tensors that one side does not have, or has in another type or shape."""
    mine = {tensor.name: tensor.describe() for tensor in expected}
    theirs = {name: tensor.describe() for name, tensor in merged.tensors.items()}
    return [
        Difference(name, 0, mine.get(name, "no such tensor"), theirs.get(name, "no such tensor"))
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name) != theirs.get(name)
    ]


def metadata_differences(merged: Checkpoint, expected: Mapping[str, str]) -> Iterator[Difference]:
    """Texts that a merge writes and that some file of the result does not have. It may have others beside them."""
    wrong: set[str] = set()
    for file in merged.files:
        if is_index(file.path.name):
            continue
        with closing(open_safetensors(file.path)) as part:
            for key, text in expected.items():
                seen = part.metadata.get(key, "no such text")
                if seen != text and key not in wrong:
                    wrong.add(key)
                    yield Difference(IN_METADATA + key, 0, text, seen)
