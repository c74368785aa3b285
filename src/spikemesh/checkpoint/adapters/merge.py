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
from spikemesh.checkpoint.source import Checkpoint
from spikemesh.errors import InvalidData
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
        run = Run(
            library=library,
            base=library.open(Path(base)),
            gathered=library.gather([Path(path) for path in inputs], factors, add_up=weights is not None),
            dtype=dtype,
            place=place,
            keep_remainder=keep_remainder,
            num_threads=num_threads,
            began=began,
        )
        return run.merge()


@dataclass(frozen=True, kw_only=True)
class Run:
    """One merge of adapters that were gathered into a base."""

    library: Library
    base: Checkpoint
    base_content: str | None = None
    """What it must turn out to be; None where the long work will be the first to know."""
    gathered: Gathered
    dtype: str
    place: Place
    keep_remainder: bool = False
    num_threads: int | None = None
    began: float

    def merge(self) -> AdapterReport:
        """Whole, or not at all; what this machine learns of files is remembered."""
        writing, remainder = self._writing, self._remainder()
        output, engine = writing.work(self._recipe(UNKNOWN), remainder, self.library.progress, self.num_threads)
        try:
            recipe = self._merged(engine)
            checksum = engine.checksum.hexdigest()
            kept = 0 if remainder is None else self._keep(remainder, recipe, checksum)
            output.finish(result_metadata(self.base.metadata, recipe, checksum), writing.config(engine))
        finally:
            output.discard()
        self.library.known.remember(self.base, recipe.base)
        path = None if remainder is None else remainder_path(self.place.out)
        return report(writing, engine, recipe, self.gathered, self.began, remainder=path, remainder_bytes=kept)

    @property
    def _writing(self) -> Writing:
        return Writing(
            base=Opened(self.base),
            base_metadata=self.base.metadata,
            companions=beside(self.base),
            weighted=self.gathered.weighted,
            tensors=plan(list(self.base.tensors.values()), self.gathered.adapters, self.dtype),
            place=self.place,
        )

    def _recipe(self, base: str) -> AdapterRecipe:
        return AdapterRecipe(base=base, leaves=frozenset(self.gathered.leaves), dtype=self.dtype)

    def _merged(self, engine: AdapterEngine) -> AdapterRecipe:
        """What was merged, by its contents. `InvalidData` if that is not what was taken for it."""
        self.gathered.require_untouched()
        content = engine.base_hash.hexdigest()
        if self.base_content not in (None, content):
            self.library.known.remember(self.base, content)
            raise InvalidData(
                f"{self.base.path} has changed: expected content {self.base_content}, read {content}. Try again."
            )
        return self._recipe(content)

    def _remainder(self) -> RemainderWriter | None:
        if not self.keep_remainder:
            return None
        remainder = RemainderWriter(self.place.out.parent)
        self.library.stack.callback(remainder.close)
        return remainder

    def _keep(self, remainder: RemainderWriter, recipe: AdapterRecipe, checksum: str) -> int:
        """Bytes of the file beside the result."""
        return remainder.finish(
            remainder_path(self.place.out),
            self.gathered.adapters,
            checksum=checksum,
            recipe=recipe.to_metadata(),
            base=self.base,
            dtype=self.dtype,
            force=self.place.force,
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
