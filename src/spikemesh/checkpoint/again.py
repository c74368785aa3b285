"""A merge repeated from its recipe, with its inputs found by what is in them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from spikemesh.checkpoint.adapters.recipe import read_adapter_recipe
from spikemesh.checkpoint.gather import Gathering
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.merge import MergeReport, PathLike, Run
from spikemesh.checkpoint.naming import KNOWN, is_index, stem_of
from spikemesh.checkpoint.opening import open_checkpoint
from spikemesh.checkpoint.options import Place
from spikemesh.checkpoint.place import check_free
from spikemesh.checkpoint.recipe import Recipe, read_recipe
from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.progress import SILENT, Progress

SHOWN = 3
SUFFIXES = frozenset((".safetensors", ".pt", ".pth", ".bin", ".ckpt"))


def recipe_of(merged: PathLike) -> Recipe:
    """What a merged file says that it was made of. `CheckpointError` if it says nothing."""
    with closing(open_checkpoint(Path(merged))) as checkpoint:
        recipe = read_recipe(checkpoint.metadata, path=checkpoint.path)
        adapters = read_adapter_recipe(checkpoint.metadata, path=checkpoint.path)
    if adapters is not None:
        raise CheckpointError(
            f"{merged} is a base with {len(adapters.leaves)} adapters, which `spikemesh inspect` names. Repeat that "
            "with `spikemesh merge ADAPTER… --base BASE`."
        )
    if recipe is None:
        raise CheckpointError(f"{merged} does not say that it was merged from anything, so it cannot be repeated.")
    return recipe


def seen_names(recipe: Recipe) -> dict[str, str]:
    """Names for people, by content: of the files where this machine saw them last."""
    known = KnownFiles()
    contents = [*(leaf.content for leaf in recipe.leaves), recipe.base, recipe.mask]
    found = {content: known.find(content) for content in contents if content is not None}
    return {content: path.name for content, path in found.items() if path is not None}


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
        wanted = {leaf.content for leaf in recipe.leaves}
        wanted.update(extra for extra in (recipe.base, recipe.mask) if extra is not None)
        candidates = [*map(Path, inputs), *(() if from_folder is None else _checkpoints_in(Path(from_folder)))]
        found = _by_content(gathering, candidates, wanted)
        _require_found(wanted, found, known)
        _require_used(gathering, inputs, wanted)
        gathered = gathering.from_recipe(
            recipe,
            [found[leaf.content] for leaf in sorted(recipe.leaves) if leaf.content in found],
            base=None if recipe.base is None else found.get(recipe.base),
            mask=None if recipe.mask is None else found.get(recipe.mask),
        )
        run = Run(gathered=gathered, known=known, progress=progress, num_threads=num_threads, began=began)
        return run.into(place)


def _require_found(wanted: Collection[str], found: Mapping[str, Path], known: KnownFiles) -> None:
    missing = [content for content in sorted(wanted) if content not in found and known.find(content) is None]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of the {len(wanted)} files of the recipe are neither among those given nor where this "
            f"machine saw them last: content {', '.join(missing[:SHOWN])}. Give their paths, or with "
            "--from-folder a folder that they are in."
        )


def _require_used(gathering: Gathering, given: Sequence[PathLike], wanted: Collection[str]) -> None:
    """A file that is named has its part in the result, or there is none."""
    for path in map(Path, given):
        with closing(open_checkpoint(path)) as checkpoint:
            if gathering.content(checkpoint) not in wanted:
                raise CheckpointError(f"{path} has no part in the recipe. Leave it out.")


def _checkpoints_in(folder: Path) -> Iterator[Path]:
    """What may be a checkpoint in a folder and in those below it, folders of shards as a whole."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder. Expected one that holds the checkpoints of the recipe.")
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (path.suffix in SUFFIXES or is_index(path.name)):
            yield _published(path)


def _published(path: Path) -> Path:
    """The folder, if that is a model of which this file holds the weights: then its configuration is found too."""
    if KNOWN.fullmatch(stem_of(path.name)):
        try:
            with closing(open_checkpoint(path.parent)) as whole:
                return whole.path if whole.files[0].path == path else path
        except (InvalidData, CheckpointError):
            pass
    return path


def _by_content(gathering: Gathering, candidates: Sequence[Path], wanted: Collection[str]) -> dict[str, Path]:
    """Read until all is found. What cannot be opened is passed by: a folder may hold anything."""
    found: dict[str, Path] = {}
    for path in candidates:
        if len(found) == len(wanted):
            break
        try:
            with closing(open_checkpoint(path)) as checkpoint:
                content = gathering.content(checkpoint)
        except (InvalidData, CheckpointError):
            continue
        if content in wanted:
            found.setdefault(content, path)
    return found
