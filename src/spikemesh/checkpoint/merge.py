"""Merging whole checkpoints: any order, repetition and grouping of the same files gives the same bytes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Unpack

from spikemesh.checkpoint import model_config
from spikemesh.checkpoint.companions import Carried, beside, choose, survey
from spikemesh.checkpoint.content import CHECKSUM
from spikemesh.checkpoint.engine import Engine, Ingredients
from spikemesh.checkpoint.gather import Gathered, Gathering, OpenLeaf, check_contents
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.naming import common_stem
from spikemesh.checkpoint.opening import open_checkpoint
from spikemesh.checkpoint.options import Choices, Options, Place
from spikemesh.checkpoint.output import Output
from spikemesh.checkpoint.place import check_free, check_space, is_file_name
from spikemesh.checkpoint.plan import partly_held
from spikemesh.checkpoint.recipe import ADAPTERS_KEY, CHECKSUM_KEY, METADATA_KEY, Recipe, parse_weight
from spikemesh.checkpoint.source import Checkpoint, TensorInfo
from spikemesh.errors import CheckpointError
from spikemesh.progress import SILENT, Progress

PathLike = str | Path


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """What was merged, and what its user should know about it."""

    out: Path
    recipe: Recipe
    checksum: str
    """Of the result's tensors; it is in the file too. Equal merges have equal ones."""
    leaves: Mapping[str, Path]
    """The checkpoints that went in, by content: repeated ones once, merged ones as what they were merged from."""
    num_tensors: int
    num_coordinates: int
    """Of float tensors."""
    num_nonzero: int
    partly_held: Mapping[str, tuple[str, ...]]
    """Tensors that not all inputs have, and the paths of those that have them."""
    left_out: Mapping[str, tuple[str, ...]]
    """By path: names of what is in it and is not a tensor."""
    vanished: Mapping[str, int]
    """By tensor: values that were too small for the result's type and became zero."""
    companions: Carried
    """Configuration, tokenizer and the like: from which one input, and what was left behind."""
    config_changes: tuple[model_config.Change, ...]
    """What the configuration said of the tensors and no longer was so."""
    bytes_read: int
    bytes_written: int
    seconds: float

    @property
    def density(self) -> float:
        """Share of the float coordinates that are not zero."""
        return self.num_nonzero / self.num_coordinates if self.num_coordinates else 0.0


def merge(
    inputs: Sequence[PathLike],
    *,
    out: PathLike,
    base: PathLike | None = None,
    mask_from: PathLike | None = None,
    weights: Sequence[str | float | Fraction] | None = None,
    companions_from: PathLike | None = None,
    shard_bytes: int | None = None,
    force: bool = False,
    progress: Progress = SILENT,
    num_threads: int | None = None,
    **choices: Unpack[Choices],
) -> MergeReport:
    """Merge checkpoints into `out`: a file if that ends in .safetensors, else a folder.

    `weights`, one per input, count relative to each other (for `sum`: as they are). Zeros are not held, unless
    `mask_from` holds a mask with ones there; with a `base`, what is as in the base is not held. The other arguments
    are the fields of `Options`, such as `rule="mean"`. A merged input stands for the files it was merged from, found
    beside it in `inputs` or where this machine saw them last; `as_is` takes it as a file like any other.

    A folder takes configuration, tokenizer and the like along from one folder: `companions_from`, else the base, else
    the input of the largest weight (see `companions`).

    The result is exact and rounded once to `dtype` ("keep", "f32", "f16", "bf16"). Raises `CheckpointError` if the
    inputs do not fit together, `InvalidData` for damaged or hostile files, NaN and infinity, `StoreFull`; `out` is then
    as it was. `ValueError` for unusable arguments.
    """
    began = time.monotonic()
    source = None if companions_from is None else Path(companions_from)
    place = Place(out=Path(out), companions_from=source, shard_bytes=shard_bytes, force=force)
    options = Options(**choices)
    check_free(place.out, force=force, shard_bytes=shard_bytes)
    with ExitStack() as stack:
        known = KnownFiles()
        gathered = Gathering(stack, known, progress).gather(
            [Path(path) for path in inputs],
            base=None if base is None else Path(base),
            mask=None if mask_from is None else Path(mask_from),
            weights=None if weights is None else [parse_weight(weight) for weight in weights],
            options=options,
        )
        report = _write(gathered, place, known, progress, num_threads, began)
        _remember(known, gathered.ingredients, report)
    with closing(open_checkpoint(place.out)) as merged:
        known.remember(merged, report.checksum, CHECKSUM)
    return report


def _remember(known: KnownFiles, ingredients: Ingredients, report: MergeReport) -> None:
    """So that a later merge of the result, or `verify`, finds what it needs."""
    for content, checkpoint in zip(report.leaves, ingredients.inputs, strict=True):
        known.remember(checkpoint, content)
    for extra, content_of_extra in ((ingredients.base, report.recipe.base), (ingredients.mask, report.recipe.mask)):
        if extra is not None and content_of_extra is not None:
            known.remember(extra, content_of_extra)


def _write(
    gathered: Gathered,
    place: Place,
    known: KnownFiles,
    progress: Progress,
    num_threads: int | None,
    began: float,
) -> MergeReport:
    ingredients, out = gathered.ingredients, place.out
    inputs = ingredients.inputs
    # Aligned: wide elements come first.
    results = sorted((t.result for t in ingredients.tensors), key=lambda t: (-t.element.size_bytes, t.name))
    companions = _companions(gathered, place)
    carried = carried_metadata(gathered.leaves)
    needed = sum(result.size_bytes for result in results)
    check_space(out.parent, needed + companions.size_bytes)
    output = Output(
        out,
        results,
        result_metadata(carried, _unknown(gathered), "0" * 32),
        shard_bytes=place.shard_bytes,
        stem=common_stem((c.files[0].path.name, c.path.is_dir()) for c in inputs),
        companions=companions.files,
        force=place.force,
    )
    try:
        engine = Engine(ingredients, output, progress)
        progress.begin("merging", ingredients.input_bytes)
        engine.run(num_threads)
        contents = [collected.hexdigest() for collected in engine.input_hashes]
        check_contents(gathered, contents, known)
        base = None if engine.base_hash is None else engine.base_hash.hexdigest()
        mask = None if engine.mask_hash is None else engine.mask_hash.hexdigest()
        recipe = gathered.recipe(contents, base, mask)
        checksum = engine.checksum.hexdigest()
        config, config_changes = _config(companions, results, engine)
        output.finish(result_metadata(carried, recipe, checksum), config)
    finally:
        output.discard()
    return MergeReport(
        out=out,
        recipe=recipe,
        checksum=checksum,
        leaves={content: checkpoint.path for content, checkpoint in zip(contents, inputs, strict=True)},
        num_tensors=len(results),
        num_coordinates=engine.tally.num_floats,
        num_nonzero=engine.tally.nonzero,
        partly_held=partly_held(ingredients.tensors, inputs),
        left_out={str(checkpoint.path): checkpoint.left_out for checkpoint in inputs if checkpoint.left_out},
        vanished=dict(sorted(engine.tally.vanished.items())),
        companions=companions,
        config_changes=config_changes,
        bytes_read=ingredients.input_bytes,
        bytes_written=needed,
        seconds=time.monotonic() - began,
    )


UNKNOWN = "0" * 64
"""In the place of a hash that the long work will bring."""


def _unknown(gathered: Gathered) -> Recipe:
    """The recipe with made-up hashes: as long as the real one."""
    extras = [None if extra is None else UNKNOWN for extra in (gathered.ingredients.base, gathered.ingredients.mask)]
    return gathered.recipe([f"{number:064x}" for number in range(len(gathered.leaves))], *extras)


def result_metadata(carried: Mapping[str, str], recipe: Recipe, checksum: str) -> dict[str, str]:
    return {**carried, METADATA_KEY: recipe.to_metadata(), CHECKSUM_KEY: checksum}


def carried_metadata(leaves: Sequence[OpenLeaf]) -> dict[str, str]:
    """What all inputs say alike; a copy that says nothing does not unsay it.

    `format` is what loaders of published models ask for.
    """
    said = [_said([leaf.checkpoint, *leaf.others]) for leaf in leaves]
    alike = {key: text for key, text in said[0].items() if all(other.get(key) == text for other in said)}
    return {"format": "pt", **alike}


def _said(copies: Sequence[Checkpoint]) -> dict[str, str]:
    """What the files that stand for one leaf say, where they do not contradict each other."""
    texts: dict[str, set[str]] = {}
    for key, text in (item for copy in copies for item in copy.metadata.items()):
        if key not in (METADATA_KEY, CHECKSUM_KEY, ADAPTERS_KEY):
            texts.setdefault(key, set()).add(text)
    return {key: text for key, (text, *more) in texts.items() if not more}


def _companions(gathered: Gathered, place: Place) -> Carried:
    """What the result takes along, and what stays behind."""
    copies = [(leaf.weight, copy) for leaf in gathered.leaves for copy in (leaf.checkpoint, *leaf.others)]
    candidates = [(weight, seen) for weight, copy in copies if (seen := beside(copy)) is not None]
    base = gathered.ingredients.base
    first = None if base is None else beside(base)
    if place.companions_from is not None:
        first = survey(place.companions_from)
        if not first.files:
            raise CheckpointError(
                f"{place.companions_from} has no configuration to take along. Name the folder of a model."
            )
    return choose(candidates, first=first, one_file=is_file_name(place.out))


def _config(
    companions: Carried, results: Sequence[TensorInfo], engine: Engine
) -> tuple[dict[str, bytes], tuple[model_config.Change, ...]]:
    """The configuration in the result, if it has to say something else than it did, and what."""
    text = model_config.read_config(companions.files)
    if text is None:
        return {}, ()
    others = [model_config.read_config(one.files) for one in companions.inputs]
    text, changes = model_config.agree(text, results, engine.checksum.is_same, others)
    return ({model_config.NAME: text} if changes else {}), changes
