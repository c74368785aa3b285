"""Adapters taken out of a result again: the merge of the others, or the base, bit for bit.

From the sources, found by content; or from the result itself and its remainder, without the base and the others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from spikemesh.checkpoint.adapters.adapter import Adapter
from spikemesh.checkpoint.adapters.engine import Base, Opened
from spikemesh.checkpoint.adapters.gather import Gathered, Library
from spikemesh.checkpoint.adapters.merge import AdapterReport, PathLike, Writing, report
from spikemesh.checkpoint.adapters.plan import plan
from spikemesh.checkpoint.adapters.recipe import AdapterLeaf, AdapterRecipe, read_adapter_recipe, result_metadata
from spikemesh.checkpoint.adapters.remainder import Remainder, Restored, open_remainder, remainder_path
from spikemesh.checkpoint.companions import beside
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.options import Place
from spikemesh.checkpoint.place import check_free
from spikemesh.checkpoint.recipe import CHECKSUM_KEY
from spikemesh.checkpoint.source import Checkpoint, TensorInfo
from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.kernels import ELEMENTS
from spikemesh.progress import SILENT, Progress


def unmerge(
    merged: PathLike,
    removed: Sequence[PathLike],
    *,
    out: PathLike,
    base: PathLike | None = None,
    remainder: PathLike | None = None,
    shard_bytes: int | None = None,
    force: bool = False,
    progress: Progress = SILENT,
    num_threads: int | None = None,
) -> AdapterReport:
    """`merged` without the adapters `removed`, bit for bit what a merge of the others gives; without any, the base.

    With `remainder`, or where one lies beside `merged` and no `base` is given, nothing else is needed. Else base and
    other adapters are looked for where this machine saw them last. `CheckpointError` if `merged` has no such
    adapters or the sources are gone, `InvalidData` if something has changed since the merge; `out` is then as it was.
    """
    began = time.monotonic()
    place = Place(out=Path(out), shard_bytes=shard_bytes, force=force)
    check_free(place.out, force=force, shard_bytes=shard_bytes)
    with ExitStack() as stack:
        library = Library(stack=stack, known=KnownFiles(), progress=progress)
        opened = library.open(Path(merged))
        recipe = read_adapter_recipe(opened.metadata, path=opened.path)
        if recipe is None:
            raise CheckpointError(
                f"{merged} does not say that adapters were merged into it. Only such a file has a way back."
            )
        left = recipe.without(_identities(library, recipe, [Path(path) for path in removed]))
        source = _remainder_of(opened, remainder, base, stack)
        found = None if source is None else source.checkpoint.path
        if source is not None:
            writing, gathered = _from_remainder(library, opened, recipe, left, source, place)
        else:
            writing, gathered = _from_sources(library, recipe, left, None if base is None else Path(base), place)
        remaining = left if left.leaves else None
        output, engine = writing.work(remaining, None, progress, num_threads)
        try:
            gathered.require_untouched()
            if engine.base_hash.hexdigest() != recipe.base:
                raise InvalidData(
                    f"the base that {merged} was made from does not come back: expected content {recipe.base}. "
                    f"{merged} or {found or writing.base.path} has changed since the merge."
                )
            metadata = result_metadata(writing.base_metadata, remaining, engine.checksum.hexdigest())
            output.finish(metadata, writing.config(engine))
        finally:
            output.discard()
        return report(writing, engine, remaining, gathered, began, remainder=found)


def _identities(library: Library, recipe: AdapterRecipe, paths: Sequence[Path]) -> set[tuple[str, str]]:
    """What is to be taken out. `CheckpointError` for what is not in there."""
    known = {leaf.identity: leaf for leaf in recipe.leaves}
    identities = set()
    for path in paths:
        _, leaf = library.adapter(path)
        if leaf.identity not in known:
            changed = any(leaf.content == other.content for other in recipe.leaves)
            why = "with another adapter_config.json" if changed else "at all"
            raise CheckpointError(f"{path} was not merged into this file {why}; {len(known)} other adapters were.")
        identities.add(leaf.identity)
    if not identities:
        raise ValueError("expected at least one adapter to take out, got none")
    return identities


def _remainder_of(
    merged: Checkpoint, given: PathLike | None, base: PathLike | None, stack: ExitStack
) -> Remainder | None:
    """What was given, or lies beside `merged`, unless an earlier merge to that place left it there."""
    if given is not None:
        return open_remainder(Path(given), stack)
    path = remainder_path(merged.path)
    if base is not None or not path.is_file():
        return None
    found = open_remainder(path, stack)
    return found if found.checksum == merged.metadata.get(CHECKSUM_KEY) else None


def _from_sources(
    library: Library, recipe: AdapterRecipe, left: AdapterRecipe, base: Path | None, place: Place
) -> tuple[Writing, Gathered]:
    opened = library.find_base(recipe, base)
    gathered = library.find(list(left.leaves))
    writing = Writing(
        base=Opened(opened),
        base_metadata=opened.metadata,
        companions=beside(opened),
        weighted=gathered.weighted,
        tensors=plan(list(opened.tensors.values()), gathered.adapters, left.dtype if left.leaves else "keep"),
        place=place,
    )
    return writing, gathered


def _from_remainder(
    library: Library, merged: Checkpoint, recipe: AdapterRecipe, left: AdapterRecipe, source: Remainder, place: Place
) -> tuple[Writing, Gathered]:
    _require_of(merged, source)
    leaves = sorted(recipe.leaves)
    everything = Gathered(leaves=leaves, adapters=source.adapters)
    if len(source.adapters) != len(leaves) or not all(map(_is, source.adapters, leaves)):
        raise InvalidData(f"{source.checkpoint.path} holds other adapters than were merged.")
    base = [
        TensorInfo(name=name, shape=t.shape, element=ELEMENTS.get(source.types.get(name, ""), t.element))
        for name, t in merged.tensors.items()
    ]
    restored: Base = Restored(merged, source, everything.weighted, plan(base, source.adapters, recipe.dtype))
    kept = [(leaf, a) for leaf, a in zip(leaves, source.adapters, strict=True) if leaf in left.leaves]
    gathered = Gathered(leaves=[leaf for leaf, _ in kept], adapters=[adapter for _, adapter in kept])
    writing = Writing(
        base=restored,
        base_metadata=source.base_metadata,
        companions=beside(merged),
        weighted=gathered.weighted,
        tensors=plan(base, gathered.adapters, left.dtype if left.leaves else "keep"),
        place=place,
    )
    return writing, gathered


def _require_of(merged: Checkpoint, source: Remainder) -> None:
    if source.checksum != merged.metadata.get(CHECKSUM_KEY):
        raise CheckpointError(
            f"{source.checkpoint.path} is the remainder of another merge than {merged.path}. "
            "Give the one that was written with it, or leave it out: then base and other adapters are needed."
        )


def _is(adapter: Adapter, leaf: AdapterLeaf) -> bool:
    return adapter.meaning == leaf.meaning
