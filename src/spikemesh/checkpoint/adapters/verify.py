"""Is it what its adapters give, and the base if it has one? Everything is computed again, and every bit compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from spikemesh.checkpoint.adapters.adapter import Adapter, open_adapter
from spikemesh.checkpoint.adapters.config import CONFIG_NAME
from spikemesh.checkpoint.adapters.engine import AdapterEngine, Opened
from spikemesh.checkpoint.adapters.gather import Library
from spikemesh.checkpoint.adapters.plan import plan
from spikemesh.checkpoint.adapters.recipe import read_adapter_recipe, read_stack_recipe, result_metadata
from spikemesh.checkpoint.adapters.stack import Stacked, modules_of, stack_metadata, tensors_of
from spikemesh.checkpoint.content import CHECKSUM, TreeHash
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.source import Checkpoint
from spikemesh.checkpoint.verify import Comparison, Difference, VerifyReport, metadata_differences, table_differences
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


def verify_stack(merged: Path, inputs: Sequence[str | Path], *, progress: Progress) -> VerifyReport:
    """The same for an adapter that was made of adapters: its tensors, and the scales that its configuration gives."""
    with ExitStack() as stack:
        library = Library(stack=stack, known=KnownFiles(), progress=progress)
        adapter = open_adapter(merged, stack)
        opened = adapter.checkpoint
        recipe = read_stack_recipe(opened.metadata, path=opened.path)
        if recipe is None:
            raise CheckpointError(f"{merged} is an adapter that does not say that it was made of adapters.")
        gathered = library.find(list(recipe.leaves), [Path(path) for path in inputs])
        modules = modules_of(gathered)
        tensors = dict(tensors_of(modules, gathered))
        differences = table_differences(opened, [info for info, _ in tensors.values()])
        if not differences:
            comparison = Comparison(opened)
            checksum = TreeHash({name: info for name, (info, _) in tensors.items()}, CHECKSUM)
            for name, (_, read) in tensors.items():
                data = read()
                checksum.add(name, 0, data)
                comparison.write(name, 0, data)
            said = stack_metadata(recipe, checksum.hexdigest())
            differences = [*comparison.first.values(), *metadata_differences(opened, said)]
            differences += _scale_differences(adapter, modules)
        return VerifyReport(
            recipe=recipe,
            num_tensors=len(opened.tensors),
            num_bytes=opened.size_bytes,
            differences=tuple(sorted(differences, key=lambda difference: difference.tensor)),
        )


def _scale_differences(adapter: Adapter, modules: Mapping[str, Stacked]) -> Iterator[Difference]:
    for target, module in modules.items():
        seen = adapter.pairs[target].scale
        if seen != module.scale:
            yield Difference(f"{CONFIG_NAME}: scale of {target}", 0, str(module.scale), str(seen))
