"""A merge of adapters repeated from its recipe, with base and adapters found by what is in them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from spikemesh.checkpoint.adapters.adapter import is_adapter, open_adapter
from spikemesh.checkpoint.adapters.gather import Library
from spikemesh.checkpoint.adapters.merge import AdapterReport, PathLike, Run
from spikemesh.checkpoint.adapters.recipe import AdapterRecipe, StackRecipe
from spikemesh.checkpoint.adapters.stack import StackReport, require_folder, stack_gathered
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.opening import open_checkpoint
from spikemesh.checkpoint.options import Place
from spikemesh.checkpoint.place import check_free
from spikemesh.checkpoint.search import Key, search
from spikemesh.progress import SILENT, Progress


def merge_adapters_again(
    recipe: AdapterRecipe,
    inputs: Sequence[PathLike] = (),
    *,
    out: PathLike,
    from_folder: PathLike | None = None,
    shard_bytes: int | None = None,
    force: bool = False,
    progress: Progress = SILENT,
    num_threads: int | None = None,
) -> AdapterReport:
    """The merge that a recipe says. Base and adapters are found by content, adapters by what their configuration means
    as well: among `inputs`, in `from_folder` and the folders in it, or where this machine saw them last.

    `CheckpointError` names what is not found; else as `merge_adapters`.
    """
    began = time.monotonic()
    place = Place(out=Path(out), shard_bytes=shard_bytes, force=force)
    check_free(place.out, force=force, shard_bytes=shard_bytes)
    with ExitStack() as stack:
        library = Library(stack=stack, known=KnownFiles(), progress=progress)
        at_hand = _search(library, [(recipe.base,), *(leaf.identity for leaf in recipe.leaves)], inputs, from_folder)
        base = library.find_base(recipe, at_hand.pop((recipe.base,), None))
        gathered = library.find(list(recipe.leaves), list(at_hand.values()))
        run = Run(
            library=library,
            base=base,
            base_content=recipe.base,
            gathered=gathered,
            dtype=recipe.dtype,
            place=place,
            num_threads=num_threads,
            began=began,
        )
        return run.merge()


def stack_adapters_again(
    recipe: StackRecipe,
    inputs: Sequence[PathLike] = (),
    *,
    out: PathLike,
    from_folder: PathLike | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> StackReport:
    """The same for adapters that were merged with each other."""
    require_folder(Path(out))
    check_free(Path(out), force=force)
    with ExitStack() as stack:
        library = Library(stack=stack, known=KnownFiles(), progress=progress)
        at_hand = _search(library, [leaf.identity for leaf in recipe.leaves], inputs, from_folder)
        gathered = library.find(list(recipe.leaves), list(at_hand.values()))
        return stack_gathered(library, gathered, Place(out=Path(out), force=force))


def _search(
    library: Library, wanted: Sequence[Key], inputs: Sequence[PathLike], from_folder: PathLike | None
) -> dict[Key, Path]:
    folder = None if from_folder is None else Path(from_folder)
    return search([*map(Path, inputs)], folder, wanted, lambda path: _key(library, path), library.known)


def _key(library: Library, path: Path) -> Key:
    """What is at `path`; it is closed again."""
    if is_adapter(path):
        with ExitStack() as opening:
            adapter = open_adapter(path, opening)
            return library.content(adapter.checkpoint), adapter.meaning
    with closing(open_checkpoint(path)) as checkpoint:
        return (library.content(checkpoint),)
