"""From the paths that a user gives to opened leaves with weights: everything that can go wrong before the long work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from spikemesh.checkpoint.content import CHECKSUM, CONTENT, Kind, sample_hash, tree_hash
from spikemesh.checkpoint.engine import Ingredients
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.opening import open_checkpoint
from spikemesh.checkpoint.options import Options
from spikemesh.checkpoint.plan import plan
from spikemesh.checkpoint.recipe import CHECKSUM_KEY, RULES, Leaf, Recipe, integer_weights, read_recipe
from spikemesh.checkpoint.source import Checkpoint
from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.progress import Progress

DEFAULT_RULE = "active-mean"

EXTRAS = {"base": "--base", "mask": "--mask-from"}
"""What a merge may take beside its inputs, and the options that name it."""


@dataclass(frozen=True, kw_only=True)
class OpenLeaf:
    """One checkpoint that takes part. Its content is None where the long work will be the first to know."""

    checkpoint: Checkpoint
    weight: Fraction
    content: str | None = None
    others: tuple[Checkpoint, ...] = ()
    """What was given in its place: copies of its tensors in other files, and merges that it is part of."""


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The leaves of a merge, opened and checked."""

    ingredients: Ingredients
    leaves: Sequence[OpenLeaf]
    rule: str
    dtype: str

    def recipe(self, contents: Sequence[str], base: str | None, mask: str | None) -> Recipe:
        """What was merged, once the contents are known."""
        leaves = frozenset(map(Leaf, contents, (leaf.weight for leaf in self.leaves)))
        return Recipe(rule=self.rule, leaves=leaves, base=base, mask=mask, dtype=self.dtype)


class Gathering:
    """Opens what a merge needs and finds out what it is; everything that it opens closes with `stack`."""

    def __init__(self, stack: ExitStack, known: KnownFiles, progress: Progress) -> None:
        self._stack = stack
        self._known = known
        self._progress = progress

    def open(self, path: Path) -> Checkpoint:
        checkpoint = open_checkpoint(path)
        self._stack.callback(checkpoint.close)
        return checkpoint

    def content(self, checkpoint: Checkpoint) -> str:
        """Its content hash: remembered if its files have not been touched since, else by reading all of it."""
        return self._hash(checkpoint, CONTENT)

    def _hash(self, checkpoint: Checkpoint, kind: Kind) -> str:
        value = self._known.hash_of(checkpoint, kind)
        if value is None:
            value = tree_hash(checkpoint, kind, self._progress)
            self._known.remember(checkpoint, value, kind)
        return value

    def gather(
        self,
        paths: Sequence[Path],
        *,
        base: Path | None,
        mask: Path | None,
        weights: Sequence[Fraction] | None,
        options: Options,
    ) -> Gathered:
        """Everything a merge of `paths` needs. See `merge.merge` for what is raised."""
        if not paths:
            raise ValueError("expected at least one checkpoint, got none")
        if weights is not None and len(weights) != len(paths):
            raise ValueError(f"expected one weight per checkpoint, got {len(weights)} for {len(paths)}")
        factors = [Fraction(1)] * len(paths) if weights is None else list(weights)
        opened = [self.open(path) for path in paths]
        recipes = [None if options.as_is else read_recipe(c.metadata, path=c.path) for c in opened]
        made = next((recipe for recipe in recipes if recipe is not None), None)
        extras = {
            "base": self._extra("base", base, None if made is None else made.base),
            "mask": self._extra("mask", mask, None if made is None else made.mask),
        }
        if made is None:
            plan(opened, **extras, dtype=options.dtype or "keep")  # what clashes does so before anything is read
            leaves = self._without_copies(opened, factors)
        else:
            options = replace(options, rule=options.rule or made.rule, dtype=options.dtype or made.dtype)
            leaves = self._regroup(opened, recipes, factors, extras, options)
        return _checked(leaves, extras, options)

    def from_recipe(self, recipe: Recipe, given: Sequence[Path], *, base: Path | None, mask: Path | None) -> Gathered:
        """The leaves of a recipe, by content among `given` or where this machine saw them last; no more and no less."""
        extras = {"base": self._extra("base", base, recipe.base), "mask": self._extra("mask", mask, recipe.mask)}
        for name, extra in extras.items():
            expected = getattr(recipe, name)
            if (None if extra is None else self.content(extra)) != expected:
                raise CheckpointError(
                    f"the {name} is not the one that was merged with: expected {_content_text(expected)}."
                )
        contents = {leaf.content for leaf in recipe.leaves}
        copies: dict[str, list[Checkpoint]] = {}
        for checkpoint in map(self.open, given):
            content = self.content(checkpoint)
            inner = read_recipe(checkpoint.metadata, path=checkpoint.path)
            if content in contents:
                copies.setdefault(content, []).append(checkpoint)
            elif inner is None or not contents.issuperset(leaf.content for leaf in inner.leaves):
                raise CheckpointError(f"{checkpoint.path} was not merged into this file.")
        return _checked(self._leaves(recipe, copies), extras, Options(rule=recipe.rule, dtype=recipe.dtype))

    def _extra(self, name: str, given: Path | None, content: str | None) -> Checkpoint | None:
        """The base or mask of a merge: what the user gives, or where this machine saw that of an earlier merge."""
        path = given
        if given is None and content is not None:
            path = self._known.find(content)
            if path is None:
                raise CheckpointError(f"the merge used a {name} of content {content}. Give it with {EXTRAS[name]}.")
        return None if path is None else self.open(path)

    # ---- inputs that nobody merged -----------------------------------------------------------------------------------

    def _without_copies(self, opened: Sequence[Checkpoint], weights: Sequence[Fraction]) -> list[OpenLeaf]:
        """Two copies count once. Only those that a sample cannot tell apart are read in full to find out."""
        samples = [sample_hash(checkpoint) for checkpoint in opened]
        repeated = {sample for sample, count in Counter(samples).items() if count > 1}
        leaves: list[OpenLeaf] = []
        for checkpoint, weight, sample in zip(opened, weights, samples, strict=True):
            leaf = OpenLeaf(
                checkpoint=checkpoint, weight=weight, content=self.content(checkpoint) if sample in repeated else None
            )
            first = next((i for i, seen in enumerate(leaves) if leaf.content and seen.content == leaf.content), None)
            if first is None:
                leaves.append(leaf)
                continue
            _require_same_weight(leaves[first], leaf)
            leaves[first] = replace(leaves[first], others=(*leaves[first].others, checkpoint))
        return leaves

    # ---- inputs that were merged before ------------------------------------------------------------------------------

    def _regroup(
        self,
        opened: Sequence[Checkpoint],
        recipes: Sequence[Recipe | None],
        factors: Sequence[Fraction],
        extras: Mapping[str, Checkpoint | None],
        options: Options,
    ) -> list[OpenLeaf]:
        """The leaves of everything, each opened."""
        joined = Recipe(
            rule=options.rule or DEFAULT_RULE,
            leaves=frozenset(),
            dtype=options.dtype or "keep",
            **{name: None if extra is None else self.content(extra) for name, extra in extras.items()},
        )
        copies: dict[str, list[Checkpoint]] = {}
        merges: dict[str, list[Checkpoint]] = {}
        for checkpoint, recipe, factor in zip(opened, recipes, factors, strict=True):
            if recipe is None:
                content = self.content(checkpoint)
                copies.setdefault(content, []).append(checkpoint)
                recipe = replace(joined, leaves=frozenset({Leaf(content)}))
            elif self._hash(checkpoint, CHECKSUM) != checkpoint.metadata.get(CHECKSUM_KEY):
                raise CheckpointError(
                    f"{checkpoint.path} was merged from {len(recipe.leaves)} files and changed afterwards, so it "
                    "cannot stand for them. Take it as it is with --as-is."
                )
            else:
                for leaf in recipe.leaves:
                    merges.setdefault(leaf.content, []).append(checkpoint)
            joined = joined.join(recipe.scaled(factor))
        leaves = self._leaves(joined, copies)
        return [replace(leaf, others=(*leaf.others, *merges.get(leaf.content or "", ()))) for leaf in leaves]

    def _leaves(self, recipe: Recipe, copies: Mapping[str, Sequence[Checkpoint]]) -> list[OpenLeaf]:
        """The leaves of a recipe, from files at hand or where this machine saw them last."""
        leaves: dict[str, OpenLeaf] = {}
        missing = []
        for leaf in sorted(recipe.leaves):
            files = copies.get(leaf.content) or self._find(leaf.content)
            if not files:
                missing.append(leaf.content)
                continue
            found = OpenLeaf(checkpoint=files[0], weight=leaf.weight, content=leaf.content, others=tuple(files[1:]))
            _require_same_weight(leaves.setdefault(leaf.content, found), found)
        if missing:
            raise CheckpointError(
                f"to merge a merged file again, the files it was made from are needed, and {len(missing)} of "
                f"{len(recipe.leaves)} are not where this machine saw them last: content {', '.join(missing[:3])}. "
                "Give their paths as further inputs, or take the merged file as it is with --as-is."
            )
        return list(leaves.values())

    def _find(self, content: str) -> list[Checkpoint]:
        path = self._known.find(content)
        return [] if path is None else [self.open(path)]


def _checked(leaves: Sequence[OpenLeaf], extras: Mapping[str, Checkpoint | None], options: Options) -> Gathered:
    inputs = [leaf.checkpoint for leaf in leaves]
    weights = [leaf.weight for leaf in leaves]
    rule, dtype = options.rule or DEFAULT_RULE, options.dtype or "keep"
    if rule == "max-magnitude" and len(set(weights)) > 1:
        raise ValueError("max-magnitude takes one value as it is: leave out the weights")
    integers, divisor = integer_weights(weights)
    ingredients = Ingredients(
        inputs=inputs,
        integers=integers,
        divisor=divisor,
        rule=RULES[rule],
        tensors=plan(inputs, **extras, dtype=dtype),
        **extras,
    )
    return Gathered(ingredients=ingredients, leaves=leaves, rule=rule, dtype=dtype)


def _require_same_weight(one: OpenLeaf, other: OpenLeaf) -> None:
    if one.weight != other.weight:
        raise CheckpointError(
            f"{one.checkpoint.path} and {other.checkpoint.path} are the same checkpoint, with the weights {one.weight} "
            f"and {other.weight}. It counts once: give it one weight."
        )


def _content_text(content: str | None) -> str:
    return "none" if content is None else f"content {content}"


def check_contents(gathered: Gathered, contents: Sequence[str], known: KnownFiles) -> None:
    """`InvalidData` if a leaf is not what it was taken for: it has changed while it was read, or under our index."""
    for leaf, seen in zip(gathered.leaves, contents, strict=True):
        if leaf.content not in (None, seen):
            known.remember(leaf.checkpoint, seen)
            raise InvalidData(
                f"{leaf.checkpoint.path} has changed: expected content {leaf.content}, read {seen}. Try again."
            )
    if len(set(contents)) < len(contents):  # what told them apart before is gone
        raise InvalidData("two of the inputs have become the same while they were read. Try again.")
