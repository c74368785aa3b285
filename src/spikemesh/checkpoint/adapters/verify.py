"""Is it what its base and its adapters give? Everything is computed again, and every bit compared."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from spikemesh.checkpoint.adapters.engine import AdapterEngine, Opened
from spikemesh.checkpoint.adapters.gather import Library
from spikemesh.checkpoint.adapters.plan import plan
from spikemesh.checkpoint.adapters.recipe import read_adapter_recipe, result_metadata
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.source import Checkpoint
from spikemesh.checkpoint.verify import Comparison, VerifyReport, metadata_differences, table_differences
from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.progress import Progress


def verify_adapters(
    merged: Checkpoint,
    inputs: Sequence[str | Path],
    *,
    base: str | Path | None,
    progress: Progress,
    num_threads: int | None,
) -> VerifyReport:
    """See `checkpoint.verify`; `inputs` are adapters."""
    recipe = read_adapter_recipe(merged.metadata, path=merged.path)
    if recipe is None:
        raise CheckpointError(f"{merged.path} does not say that adapters were merged into it.")
    with ExitStack() as stack:
        library = Library(stack=stack, known=KnownFiles(), progress=progress)
        opened = library.find_base(recipe, None if base is None else Path(base))
        gathered = library.find(list(recipe.leaves), [Path(path) for path in inputs])
        tensors = plan(list(opened.tensors.values()), gathered.adapters, recipe.dtype)
        differences = table_differences(merged, [tensor.result for tensor in tensors])
        comparison = Comparison(merged)
        if not differences:
            engine = AdapterEngine(Opened(opened), gathered.weighted, tensors, comparison, progress)
            progress.begin("verifying", opened.size_bytes)
            engine.run(num_threads)
            if engine.base_hash.hexdigest() != recipe.base:
                raise InvalidData(
                    f"{opened.path} has changed: expected content {recipe.base}. Give the base with --base."
                )
            expected = result_metadata(opened.metadata, recipe, engine.checksum.hexdigest())
            differences = [*comparison.first.values(), *metadata_differences(merged, expected)]
        return VerifyReport(
            recipe=recipe,
            num_tensors=len(merged.tensors),
            num_bytes=merged.size_bytes,
            differences=tuple(sorted(differences, key=lambda difference: difference.tensor)),
        )
