"""Merging whole checkpoints: any order, repetition and grouping of the same files gives the same bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Unpack

from spikemesh.checkpoint import model_config
from spikemesh.checkpoint.companions import Carried, Companions, beside, choose, survey
from spikemesh.checkpoint.content import CHECKSUM
from spikemesh.checkpoint.engine import Engine, Ingredients, Sink
from spikemesh.checkpoint.gather import Gathering
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.leaves import Gathered, OpenLeaf, check_contents
from spikemesh.checkpoint.memory import MemorySink, StateDict, is_torch, open_state_dict, require_numpy_has
from spikemesh.checkpoint.names import Respelling
from spikemesh.checkpoint.naming import common_stem
from spikemesh.checkpoint.opening import open_checkpoint
from spikemesh.checkpoint.options import Choices, Options, Place
from spikemesh.checkpoint.output import Output
from spikemesh.checkpoint.place import check_free, check_space, is_file_name
from spikemesh.checkpoint.recipe import ADAPTERS_KEY, CHECKSUM_KEY, METADATA_KEY, STACK_KEY, Recipe
from spikemesh.checkpoint.rows import MatchedRows, Matching
from spikemesh.checkpoint.source import Checkpoint, TensorInfo
from spikemesh.checkpoint.vocabulary import read_vocabulary
from spikemesh.checkpoint.weights import Weight, given_weight
from spikemesh.errors import CheckpointError
from spikemesh.progress import SILENT, Progress

PathLike = str | Path
Input = PathLike | StateDict


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """What was merged, and what its user should know about it."""

    out: Path | None
    """None if the result was asked for in memory: then it is `tensors`."""
    tensors: Mapping[str, Any] | None = None
    recipe: Recipe
    checksum: str
    """Of the result's tensors; it is in the file too. Equal merges have equal ones."""
    leaves: Mapping[str, Path]
    """The checkpoints that went in, by content: repeated ones once, merged ones as what they were merged from."""
    num_tensors: int
    num_coordinates: int
    """Of float tensors."""
    num_nonzero: int
    copies: Mapping[str, str] = field(default_factory=dict)
    """By path: the input that has the same tensors. Without weights the two count once, given weights add up."""
    respelled: Mapping[str, Respelling] = field(default_factory=dict)
    """By path: what was taken off the names of its tensors, or put before them, so that they meet."""
    partly_held: Mapping[str, tuple[str, ...]]
    """Tensors that not all inputs have, and the paths of those that have them."""
    from_base: tuple[str, ...] = ()
    """Tensors that are as in the base, because no input has them or that was asked for."""
    skipped: tuple[str, ...] = ()
    """Tensors that were left out because that was asked for."""
    left_out: Mapping[str, tuple[str, ...]]
    """By path: names of what is in it and is not a tensor."""
    vanished: Mapping[str, int]
    """By tensor: values that were too small for the result's type and became zero."""
    non_finite: Mapping[str, int] = field(default_factory=dict)
    """By tensor: NaN and infinities in the result, which all inputs have alike or that were let spread."""
    chosen_integers: Mapping[str, int] = field(default_factory=dict)
    """By tensor that is no float: elements that differ between the inputs, where `recipe.integers` has chosen one."""
    matched: MatchedRows | None = None
    """Rows of embeddings and heads that were matched by their tokens, if that was asked for."""
    weights_rounded: bool = False
    """The weights had more digits than fit together; those in `recipe` are what was merged by."""
    companions: Carried | None = None
    """Configuration, tokenizer and the like: from which one input, and what was left behind. None in memory."""
    config_changes: tuple[model_config.Change, ...] = ()
    """What the configuration said of the tensors and no longer was so."""
    bytes_read: int
    bytes_written: int
    seconds: float

    @property
    def density(self) -> float:
        """Share of the float coordinates that are not zero."""
        return self.num_nonzero / self.num_coordinates if self.num_coordinates else 0.0


def merge(
    inputs: Sequence[Input],
    *,
    out: PathLike | None,
    base: Input | None = None,
    mask_from: Input | None = None,
    weights: Sequence[Weight] | None = None,
    companions_from: PathLike | None = None,
    shard_bytes: int | None = None,
    force: bool = False,
    progress: Progress = SILENT,
    num_threads: int | None = None,
    **choices: Unpack[Choices],
) -> MergeReport:
    """Merge checkpoints into `out`: a file if that ends in .safetensors, else a folder; None is memory.

    Inputs are paths, or state dicts of NumPy arrays or torch tensors. A result in memory has torch tensors if an input
    has, else NumPy arrays. `weights`, one per input, count relative to each other (for `sum`: as they are, below zero
    too). Zeros are not held, unless `mask_from` holds a mask with ones there; with a `base`, what is as in the base is
    not held. The other arguments are the fields of `Options`, such as `rule="mean"`.

    A merged input stands for the files it was merged from, found beside it in `inputs` or where this machine saw them
    last; its weight is divided over them. Without weights, what is given twice counts once; given weights add up.

    A folder takes configuration, tokenizer and the like along from one folder: `companions_from`, else the base, else
    the input of the largest weight (see `companions`).

    The result is exact and rounded once to `dtype` ("keep", "f32", "f16", "bf16"). Raises `CheckpointError` if the
    inputs do not fit together, `InvalidData` for damaged or hostile files, NaN and infinity, `StoreFull`; `out` is then
    as it was. `ValueError` for unusable arguments.
    """
    began = time.monotonic()
    options = Options(**choices)
    source = None if companions_from is None else Path(companions_from)
    place = None
    if out is not None:
        place = Place(out=Path(out), companions_from=source, shard_bytes=shard_bytes, force=force)
        check_free(place.out, force=force, shard_bytes=shard_bytes)
    with ExitStack() as stack:
        known = KnownFiles()
        gathered = gather(Gathering(stack, known, progress), inputs, base, mask_from, weights, options)
        wants_torch = any(map(_is_torch, [*inputs, base, mask_from]))
        run = Run(gathered=gathered, known=known, progress=progress, num_threads=num_threads, began=began)
        return run.into_memory(as_torch=wants_torch) if place is None else run.into(place)


def gather(
    gathering: Gathering,
    inputs: Sequence[Input],
    base: Input | None,
    mask_from: Input | None,
    weights: Sequence[Weight] | None,
    options: Options,
) -> Gathered:
    """What `merge` merges, opened and checked."""
    if isinstance(inputs, str | os.PathLike | Mapping):
        raise ValueError("expected a list of inputs, got one path or state dict: put it into a list")
    signed = options.rule in ("sum", None)  # None: what merged inputs were made by
    return gathering.gather(
        [_input(one, f"state dict {number}") for number, one in enumerate(inputs, 1)],
        base=None if base is None else _input(base, "base"),
        mask=None if mask_from is None else _input(mask_from, "mask"),
        weights=None if weights is None else [given_weight(weight, signed=signed) for weight in weights],
        options=options,
    )


def _input(given: Input, name: str) -> Path | Checkpoint:
    return open_state_dict(given, name) if isinstance(given, Mapping) else Path(given)


def _is_torch(given: Input | None) -> bool:
    return isinstance(given, Mapping) and any(map(is_torch, given.values()))


@dataclass(frozen=True, kw_only=True)
class Run:
    """One merge of what was gathered."""

    gathered: Gathered
    known: KnownFiles
    progress: Progress = SILENT
    num_threads: int | None = None
    began: float

    def into_memory(self, *, as_torch: bool) -> MergeReport:
        results = self._results
        if not as_torch:
            require_numpy_has(results)
        sink = MemorySink(results)
        engine = self._engine(sink)
        recipe = self._merged(engine)
        return replace(self._report(engine, recipe, None), tensors=sink.state_dict(as_torch=as_torch))

    def into(self, place: Place) -> MergeReport:
        """Whole, or not at all; what this machine learns of files is remembered."""
        gathered, results = self.gathered, self._results
        companions = companions_of(gathered, place.out, place.companions_from)
        tokenizer = _tokenizer(gathered.settings.matching, companions, place.out)
        carried = carried_metadata(gathered.leaves)
        check_space(place.out.parent, sum(result.size_bytes for result in results) + companions.size_bytes)
        output = Output(
            place.out,
            results,
            result_metadata(carried, _unknown(gathered), "0" * 32),
            shard_bytes=place.shard_bytes,
            stem=common_stem((c.files[0].path.name, c.path.is_dir()) for c in gathered.ingredients.inputs if c.files),
            companions=companions.files,
            force=place.force,
        )
        try:
            engine = self._engine(output)
            recipe = self._merged(engine)
            config, config_changes = _config(companions, results, engine, gathered.plan.matched)
            texts = {**config, **tokenizer}
            output.finish(result_metadata(carried, recipe, engine.checksum.hexdigest()), texts)
        finally:
            output.discard()
        report = self._report(engine, recipe, place.out)
        report = replace(report, companions=companions, config_changes=config_changes)
        _remember(self.known, gathered.ingredients, report)
        with closing(open_checkpoint(place.out)) as merged:
            self.known.remember(merged, report.checksum, CHECKSUM)
        return report

    @property
    def _results(self) -> list[TensorInfo]:
        """Aligned: wide elements come first."""
        return sorted((t.result for t in self.gathered.plan.tensors), key=lambda t: (-t.element.size_bytes, t.name))

    def _engine(self, sink: Sink) -> Engine:
        return Engine(self.gathered.ingredients, sink, self.progress)

    def _merged(self, engine: Engine) -> Recipe:
        """Do the long work; what was merged, by its contents."""
        self.progress.begin("merging", self.gathered.ingredients.input_bytes)
        engine.run(self.num_threads)
        contents = [collected.hexdigest() for collected in engine.input_hashes]
        check_contents(self.gathered, contents, self.known)
        base = None if engine.base_hash is None else engine.base_hash.hexdigest()
        mask = None if engine.mask_hash is None else engine.mask_hash.hexdigest()
        return self.gathered.recipe(contents, base, mask)

    def _report(self, engine: Engine, recipe: Recipe, out: Path | None) -> MergeReport:
        gathered, tally = self.gathered, engine.tally
        inputs = gathered.ingredients.inputs
        contents = [collected.hexdigest() for collected in engine.input_hashes]
        return MergeReport(
            out=out,
            recipe=recipe,
            checksum=engine.checksum.hexdigest(),
            leaves={content: checkpoint.path for content, checkpoint in zip(contents, inputs, strict=True)},
            num_tensors=len(gathered.plan.tensors),
            num_coordinates=tally.num_floats,
            num_nonzero=tally.nonzero,
            copies={str(copy.path): str(leaf.checkpoint.path) for leaf in gathered.leaves for copy in leaf.copies},
            respelled=gathered.plan.respelled,
            partly_held=gathered.plan.partly_held,
            from_base=gathered.plan.from_base,
            skipped=gathered.plan.skipped,
            left_out={str(checkpoint.path): checkpoint.left_out for checkpoint in inputs if checkpoint.left_out},
            vanished=dict(sorted(tally.vanished.items())),
            non_finite=dict(sorted(tally.non_finite.items())),
            chosen_integers=dict(sorted(tally.chosen_integers.items())),
            matched=gathered.plan.matched,
            weights_rounded=gathered.weights_rounded,
            bytes_read=gathered.ingredients.input_bytes,
            bytes_written=sum(result.size_bytes for result in self._results),
            seconds=time.monotonic() - self.began,
        )


def _remember(known: KnownFiles, ingredients: Ingredients, report: MergeReport) -> None:
    """So that a later merge of the result, or `verify`, finds what it needs."""
    for content, checkpoint in zip(report.leaves, ingredients.inputs, strict=True):
        known.remember(checkpoint, content)
    for extra, content_of_extra in ((ingredients.base, report.recipe.base), (ingredients.mask, report.recipe.mask)):
        if extra is not None and content_of_extra is not None:
            known.remember(extra, content_of_extra)


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
        if key not in (METADATA_KEY, CHECKSUM_KEY, ADAPTERS_KEY, STACK_KEY):
            texts.setdefault(key, set()).add(text)
    return {key: text for key, (text, *more) in texts.items() if not more}


def companions_of(gathered: Gathered, out: Path | None, companions_from: Path | None) -> Carried:
    """What the result takes along, and what stays behind; without `out` it is a folder."""
    copies = [(leaf.weight, copy) for leaf in gathered.leaves for copy in (leaf.checkpoint, *leaf.others)]
    candidates = [(weight, seen) for weight, copy in copies if (seen := beside(copy)) is not None]
    base, matching = gathered.ingredients.base, gathered.settings.matching
    first = None if base is None else beside(base)
    if companions_from is not None and not companions_from.is_dir():
        raise CheckpointError(
            f"{companions_from} is not a folder. Name the one that configuration and tokenizer come from."
        )
    if matching is not None and not (out is not None and is_file_name(out)):
        first = _of_reference(gathered, matching, companions_from)
    elif companions_from is not None:
        first = survey(companions_from)
    if companions_from is not None and (first is None or not first.files):
        raise CheckpointError(f"{companions_from} has no configuration to take along. Name the folder of a model.")
    return choose(candidates, first=first, one_file=out is not None and is_file_name(out))


def _of_reference(gathered: Gathered, matching: Matching, named: Path | None) -> Companions | None:
    """What stands beside the tokenizer that the result's rows are of; `CheckpointError` if another one was `named`."""
    if named is not None:
        vocabulary = read_vocabulary(named)
        if vocabulary is None or not vocabulary.is_like(matching.reference):
            raise CheckpointError(f"{named} has not the tokens of {matching.reference.path}, which the result has.")
        return survey(named)
    ingredients, pairs = gathered.ingredients, zip(gathered.leaves, matching.inputs, strict=True)
    own = [(leaf.weight, v.path.parent) for leaf, v in pairs if v.digest == matching.reference.digest]
    folders = own if matching.base is None else [(Fraction(1), matching.base.path.parent)]
    files = [file.path for c in (*ingredients.inputs, *ingredients.beside) for file in c.files]
    merged = {folder: [path.name for path in files if path.parent == folder] for _, folder in folders}
    found = choose([(weight, survey(folder, merged[folder])) for weight, folder in folders]).source
    if found is None:
        raise CheckpointError(
            f"nothing beside {matching.reference.path} says that it is a model's, so that a folder could take its "
            "tokenizer along. Put its config.json there, or name the folder of one with --companions-from."
        )
    return found


def _tokenizer(matching: Matching | None, companions: Carried, out: Path) -> Mapping[str, bytes]:
    """Texts of a tokenizer that is none of the inputs'."""
    if matching is None or not matching.has_new:
        return {}
    if is_file_name(out):
        raise CheckpointError(f"a union has a tokenizer of its own, and {out} is one file. Name a folder.")
    return matching.tokenizer(companions.files)


def _config(
    companions: Carried, results: Sequence[TensorInfo], engine: Engine, matched: MatchedRows | None
) -> tuple[dict[str, bytes], tuple[model_config.Change, ...]]:
    """The configuration in the result, if it has to say something else than it did, and what."""
    text = model_config.read_config(companions.files)
    if text is None:
        return {}, ()
    others = [model_config.read_config(one.files) for one in companions.inputs]
    text, changes = model_config.agree(
        text, results, engine.checksum.is_same, others, None if matched is None else matched.num_rows
    )
    return ({model_config.NAME: text} if changes else {}), changes
