"""Adapters merged into their base: the exact sum of products, rounded once; any order gives the same bytes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from spikemesh.checkpoint import model_config
from spikemesh.checkpoint.adapters.engine import AdapterEngine, Base, Opened
from spikemesh.checkpoint.adapters.factors import Weighted
from spikemesh.checkpoint.adapters.gather import Gathered, Library
from spikemesh.checkpoint.adapters.plan import ChangedTensor, plan
from spikemesh.checkpoint.adapters.recipe import AdapterRecipe, require_known, result_metadata, weights_of
from spikemesh.checkpoint.adapters.remainder import RemainderWriter, remainder_path
from spikemesh.checkpoint.companions import Companions, beside
from spikemesh.checkpoint.content import CHECKSUM
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.opening import open_checkpoint
from spikemesh.checkpoint.options import Place
from spikemesh.checkpoint.output import Output
from spikemesh.checkpoint.place import check_free, check_space
from spikemesh.progress import SILENT, Progress

PathLike = str | Path


@dataclass(frozen=True, kw_only=True)
class AdapterReport:
    """What was made, and what its user should know about it."""

    out: Path
    recipe: AdapterRecipe | None
    """None if no adapter is left: then it is the base."""
    checksum: str
    adapters: Mapping[str, Path] = field(default_factory=dict)
    """The adapters that are in it, by content."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """By path: adapters that were given twice, and the path of the one that counts."""
    companions: Companions | None = None
    """What stands beside the base: a result that is a folder has its files, and what is left of it is named."""
    remainder: Path | None = None
    remainder_bytes: int = 0
    num_tensors: int
    num_changed: int
    """Tensors that some adapter changes."""
    num_elements: int
    """In these."""
    num_wide: int
    """Elements so near to where the rounding turns that wide integers had to decide."""
    bytes_read: int
    bytes_written: int
    seconds: float


def merge_adapters(
    inputs: Sequence[PathLike],
    *,
    base: PathLike,
    out: PathLike,
    weights: Sequence[str | float | Fraction] | None = None,
    rule: str = "sum",
    dtype: str = "keep",
    keep_remainder: bool = False,
    shard_bytes: int | None = None,
    force: bool = False,
    progress: Progress = SILENT,
    num_threads: int | None = None,
) -> AdapterReport:
    """base + the sum over adapters of weight * scale * B @ A: the exact value, rounded once to `dtype`.

    `inputs` are folders as PEFT saves them. `rule` "mean" divides the weights by their sum. What an adapter trained in
    full (`modules_to_save`) counts as its difference from the base. `keep_remainder` writes the file beside `out` from
    which `unmerge` takes adapters out again. `CheckpointError` for what does not fit or cannot be merged exactly,
    `InvalidData` for damaged or hostile files, NaN and infinity, `StoreFull`; `out` is then as it was.
    """
    began = time.monotonic()
    place = Place(out=Path(out), shard_bytes=shard_bytes, force=force)
    require_known(rule, dtype)
    factors = weights_of(weights, len(inputs), rule)
    check_free(place.out, force=force, shard_bytes=shard_bytes)
    if keep_remainder:
        check_free(remainder_path(place.out), force=force)
    with ExitStack() as stack:
        library = Library(stack=stack, known=KnownFiles(), progress=progress)
        opened = library.open(Path(base))
        gathered = library.gather([Path(path) for path in inputs], factors, add_up=weights is not None)
        writing = Writing(
            base=Opened(opened),
            base_metadata=opened.metadata,
            companions=beside(opened),
            weighted=gathered.weighted,
            tensors=plan(list(opened.tensors.values()), gathered.adapters, dtype),
            place=place,
        )
        remainder = RemainderWriter(place.out.parent) if keep_remainder else None
        if remainder is not None:
            stack.callback(remainder.close)
        recipe = AdapterRecipe(base=UNKNOWN, leaves=frozenset(gathered.leaves), dtype=dtype)
        output, engine = writing.work(recipe, remainder, progress, num_threads)
        try:
            gathered.require_untouched()
            recipe = AdapterRecipe(base=engine.base_hash.hexdigest(), leaves=recipe.leaves, dtype=dtype)
            checksum = engine.checksum.hexdigest()
            remainder_bytes = 0
            if remainder is not None:
                remainder_bytes = remainder.finish(
                    remainder_path(place.out),
                    gathered.adapters,
                    checksum=checksum,
                    recipe=recipe.to_metadata(),
                    base=opened,
                    dtype=dtype,
                    force=force,
                )
            output.finish(result_metadata(opened.metadata, recipe, checksum), writing.config(engine))
        finally:
            output.discard()
        library.known.remember(opened, recipe.base)
        return report(
            writing,
            engine,
            recipe,
            gathered,
            began,
            remainder=remainder_path(place.out) if remainder is not None else None,
            remainder_bytes=remainder_bytes,
        )


UNKNOWN = "0" * 64
"""In the place of a hash that the long work will bring."""


@dataclass(frozen=True, kw_only=True)
class Writing:
    """One result to be written: from which base, with which adapters, to where."""

    base: Base
    base_metadata: Mapping[str, str]
    companions: Companions | None
    """What stands beside the base; a folder as a result takes it along."""
    weighted: Weighted
    tensors: Sequence[ChangedTensor]
    place: Place

    @property
    def num_bytes(self) -> int:
        return sum(tensor.result.size_bytes for tensor in self.tensors)

    def work(
        self,
        recipe: AdapterRecipe | None,
        remainder: RemainderWriter | None,
        progress: Progress,
        num_threads: int | None,
    ) -> tuple[Output, AdapterEngine]:
        """Everything but the metadata; `Output.finish` or `discard` must follow."""
        out = self.place.out
        results = sorted((t.result for t in self.tensors), key=lambda t: (-t.element.size_bytes, t.name))
        check_space(out.parent, self.num_bytes)
        output = Output(
            out,
            results,
            result_metadata(self.base_metadata, recipe, "0" * 32),
            shard_bytes=self.place.shard_bytes,
            companions=None if self.companions is None else self.companions.files,
            force=self.place.force,
        )
        try:
            engine = AdapterEngine(self.base, self.weighted, self.tensors, output, progress, remainder)
            progress.begin("merging adapters", sum(tensor.base.size_bytes for tensor in self.tensors))
            engine.run(num_threads)
        except BaseException:
            output.discard()
            raise
        return output, engine

    def config(self, engine: AdapterEngine) -> dict[str, bytes]:
        """The base's configuration, if it has to say something else of these tensors."""
        text = None if self.companions is None else model_config.read_config(self.companions.files)
        if text is None:
            return {}
        text, changes = model_config.agree(text, [t.result for t in self.tensors], engine.checksum.is_same)
        return {model_config.NAME: text} if changes else {}


def report(
    writing: Writing,
    engine: AdapterEngine,
    recipe: AdapterRecipe | None,
    gathered: Gathered,
    began: float,
    *,
    remainder: Path | None = None,
    remainder_bytes: int = 0,
) -> AdapterReport:
    """What was made; the result is remembered by its checksum."""
    checksum = engine.checksum.hexdigest()
    with closing(open_checkpoint(writing.place.out)) as merged:
        KnownFiles().remember(merged, checksum, CHECKSUM)
    factors = sum(adapter.checkpoint.size_bytes for adapter in gathered.adapters)
    return AdapterReport(
        out=writing.place.out,
        recipe=recipe,
        checksum=checksum,
        adapters={leaf.content: a.path for leaf, a in zip(gathered.leaves, gathered.adapters, strict=True)},
        copies=gathered.copies,
        companions=writing.companions if writing.place.out.is_dir() else None,
        remainder=remainder,
        remainder_bytes=remainder_bytes,
        num_tensors=len(writing.tensors),
        num_changed=sum(1 for tensor in writing.tensors if tensor.products or tensor.saved),
        num_elements=engine.tally.num_elements,
        num_wide=engine.tally.wide,
        bytes_read=factors + sum(tensor.base.size_bytes for tensor in writing.tensors),
        bytes_written=writing.num_bytes,
        seconds=time.monotonic() - began,
    )
