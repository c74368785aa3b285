"""A merge repeated from its recipe, with its inputs found by what is in them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from spikemesh.checkpoint.adapters.adapter import WEIGHT_NAMES
from spikemesh.checkpoint.gather import Gathering
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.merge import MergeReport, PathLike, Run
from spikemesh.checkpoint.opening import open_checkpoint
from spikemesh.checkpoint.options import Place
from spikemesh.checkpoint.place import check_free
from spikemesh.checkpoint.recipe import Recipe
from spikemesh.checkpoint.recorded import AnyRecipe, read_any_recipe
from spikemesh.checkpoint.search import Key, search
from spikemesh.errors import CheckpointError
from spikemesh.progress import SILENT, Progress


def recipe_of(merged: PathLike) -> AnyRecipe:
    """What a merged file says that it was made of. `CheckpointError` if it says nothing."""
    with closing(open_checkpoint(Path(merged))) as checkpoint:
        recipe = read_any_recipe(checkpoint.metadata, path=checkpoint.path)
    if recipe is None:
        raise CheckpointError(f"{merged} does not say that it was merged from anything, so it cannot be repeated.")
    return recipe


def seen_names(recipe: AnyRecipe) -> dict[str, str]:
    """Names for people, by content: of the files where this machine saw them last."""
    known = KnownFiles()
    contents = [*(leaf.content for leaf in recipe.leaves), recipe.base, recipe.mask]
    found = {content: known.find(content) for content in contents if content is not None}
    return {content: _name(path) for content, path in found.items() if path is not None}


def _name(path: Path) -> str:
    """All adapters' files are called alike."""
    return path.parent.name if path.name in WEIGHT_NAMES else path.name


def merge_again(
    recipe: Recipe,
    inputs: Sequence[PathLike] = (),
    *,
    out: PathLike,
    from_folder: PathLike | None = None,
    companions_from: PathLike | None = None,
    shard_bytes: int | None = None,
    force: bool = False,
    progress: Progress = SILENT,
    num_threads: int | None = None,
) -> MergeReport:
    """The merge that a recipe says. Inputs, base and mask are found by content: among `inputs`, in `from_folder` and
    the folders in it, or where this machine saw them last. `CheckpointError` names what is not found.

    A folder takes along what the merge took, by the same rule: of an input in `from_folder` its whole folder counts.
    """
    began = time.monotonic()
    source = None if companions_from is None else Path(companions_from)
    place = Place(out=Path(out), companions_from=source, shard_bytes=shard_bytes, force=force)
    check_free(place.out, force=force, shard_bytes=shard_bytes)
    with ExitStack() as stack:
        known = KnownFiles()
        gathering = Gathering(stack, known, progress)
        contents = [*(leaf.content for leaf in recipe.leaves), recipe.base, recipe.mask]
        wanted = {(content,) for content in contents if content is not None}
        folder = None if from_folder is None else Path(from_folder)
        paths = search([*map(Path, inputs)], folder, wanted, lambda path: _key(gathering, path), known)
        found = {content: path for (content, *_), path in paths.items()}
        gathered = gathering.from_recipe(
            recipe,
            [found[leaf.content] for leaf in sorted(recipe.leaves) if leaf.content in found],
            base=None if recipe.base is None else found.get(recipe.base),
            mask=None if recipe.mask is None else found.get(recipe.mask),
        )
        run = Run(gathered=gathered, known=known, progress=progress, num_threads=num_threads, began=began)
        return run.into(place)


def _key(gathering: Gathering, path: Path) -> Key:
    """What is at `path`; it is closed again."""
    with closing(open_checkpoint(path)) as checkpoint:
        return (gathering.content(checkpoint),)
