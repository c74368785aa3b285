"""From the paths that a user gives to opened leaves with weights: everything that can go wrong before the long work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from spikemesh.checkpoint.content import content_hash, sample_hash
from spikemesh.checkpoint.engine import Ingredients
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.opening import open_checkpoint
from spikemesh.checkpoint.plan import plan
from spikemesh.checkpoint.recipe import CONTENT_KEY, DTYPES, RULES, Leaf, Recipe, integer_weights, read_recipe
from spikemesh.checkpoint.source import Checkpoint
from spikemesh.checkpoint.windows import Progress
from spikemesh.errors import CheckpointError, InvalidData

DEFAULT_RULE = "active-mean"

OpenLeaf = tuple[Checkpoint, Fraction, str | None]
"""A leaf, its weight, and its content where that is known already."""


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The leaves of a merge, opened and checked. `contents` are None where the long work will be the first to know."""

    ingredients: Ingredients
    contents: Sequence[str | None]
    weights: Sequence[Fraction]
    rule: str
    dtype: str

    def recipe(self, contents: Sequence[str], base: str | None, mask: str | None) -> Recipe:
        """What was merged, once the contents are known."""
        leaves = frozenset(map(Leaf, contents, self.weights))
        return Recipe(rule=self.rule, leaves=leaves, base=base, mask=mask, dtype=self.dtype)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user said of how to merge; None is: as the merged inputs were made, or the default."""

    rule: str | None = None
    dtype: str | None = None
    as_is: bool = False

    def __post_init__(self) -> None:
        if self.rule is not None and self.rule not in RULES:
            raise ValueError(f"expected a rule of {', '.join(RULES)}, got {self.rule!r}")
        if self.dtype is not None and self.dtype not in ("keep", *DTYPES):
            raise ValueError(f"expected a type of keep, {', '.join(DTYPES)}, got {self.dtype!r}")


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
        content = self._known.content_of(checkpoint)
        if content is None:
            content = content_hash(checkpoint, self._progress)
            self._known.remember(checkpoint, content)
        return content

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
        extras = [None if path is None else self.open(path) for path in (base, mask)]
        recipes = [None if options.as_is else self._recipe(checkpoint) for checkpoint in opened]
        if any(recipe is not None for recipe in recipes):
            leaves, options = self._regroup(opened, recipes, factors, extras, options)
        else:
            leaves = self._without_copies(opened, factors)
        return _checked(leaves, extras[0], extras[1], options)

    def from_recipe(
        self, recipe: Recipe, given: Mapping[str, Path], *, base: Path | None, mask: Path | None
    ) -> Gathered:
        """The leaves of a recipe, by content among `given` or where this machine saw them last; no more and no less."""
        extras = [None if path is None else self.open(path) for path in (base, mask)]
        for name, extra in zip(("base", "mask"), extras, strict=True):
            expected = getattr(recipe, name)
            if (None if extra is None else self.content(extra)) != expected:
                raise CheckpointError(f"the {name} is not the one that was merged with: expected content {expected}.")
        strangers = given.keys() - {leaf.content for leaf in recipe.leaves}
        if strangers:
            paths = ", ".join(sorted(str(given[content]) for content in strangers))
            raise CheckpointError(f"{paths} was not merged into this file.")
        leaves = self._leaves(recipe, {content: self.open(path) for content, path in given.items()})
        return _checked(leaves, extras[0], extras[1], Options(rule=recipe.rule, dtype=recipe.dtype))

    # ---- inputs that nobody merged -----------------------------------------------------------------------------------

    def _without_copies(self, opened: Sequence[Checkpoint], weights: Sequence[Fraction]) -> list[OpenLeaf]:
        """Two copies count once. Only those that a sample cannot tell apart are read in full to find out."""
        samples = [sample_hash(checkpoint) for checkpoint in opened]
        repeated = {sample for sample, count in Counter(samples).items() if count > 1}
        leaves: list[OpenLeaf] = []
        seen: dict[str, tuple[Fraction, Path]] = {}
        for checkpoint, weight, sample in zip(opened, weights, samples, strict=True):
            content = self.content(checkpoint) if sample in repeated else None
            if content is not None and content in seen:
                _same_weight(seen[content], (weight, checkpoint.path))
                continue
            if content is not None:
                seen[content] = weight, checkpoint.path
            leaves.append((checkpoint, weight, content))
        return leaves

    # ---- inputs that were merged before ------------------------------------------------------------------------------

    def _recipe(self, checkpoint: Checkpoint) -> Recipe | None:
        """What it was merged from, if it still is that: a file changed since then is not what its recipe gives."""
        recipe = read_recipe(checkpoint.metadata)
        if recipe is not None and self.content(checkpoint) != checkpoint.metadata.get(CONTENT_KEY):
            raise CheckpointError(
                f"{checkpoint.path} was merged from {len(recipe.leaves)} files and changed afterwards, so it cannot "
                "stand for them. Take it as it is with --as-is."
            )
        return recipe

    def _regroup(
        self,
        opened: Sequence[Checkpoint],
        recipes: Sequence[Recipe | None],
        factors: Sequence[Fraction],
        extras: Sequence[Checkpoint | None],
        options: Options,
    ) -> tuple[list[OpenLeaf], Options]:
        """The leaves of everything, each opened, and the options that the merged inputs were made with."""
        first = next(recipe for recipe in recipes if recipe is not None)
        options = replace(options, rule=options.rule or first.rule, dtype=options.dtype or first.dtype)
        base, mask = (None if extra is None else self.content(extra) for extra in extras)
        joined = Recipe(
            rule=options.rule or DEFAULT_RULE, leaves=frozenset(), base=base, mask=mask, dtype=options.dtype or "keep"
        )
        plain: dict[str, Checkpoint] = {}
        for checkpoint, recipe, factor in zip(opened, recipes, factors, strict=True):
            if recipe is None:
                content = self.content(checkpoint)
                plain[content] = checkpoint
                recipe = replace(joined, leaves=frozenset({Leaf(content)}))
            joined = joined.join(recipe.scaled(factor))
        return self._leaves(joined, plain), options

    def _leaves(self, recipe: Recipe, plain: dict[str, Checkpoint]) -> list[OpenLeaf]:
        leaves: list[OpenLeaf] = []
        missing = []
        weights: dict[str, tuple[Fraction, Path]] = {}
        for leaf in sorted(recipe.leaves):
            path = self._known.find(leaf.content)
            if leaf.content not in plain and path is None:
                missing.append(leaf.content)
                continue
            checkpoint = plain[leaf.content] if leaf.content in plain or path is None else self.open(path)
            if leaf.content in weights:
                _same_weight(weights[leaf.content], (leaf.weight, checkpoint.path))
            weights[leaf.content] = leaf.weight, checkpoint.path
            leaves.append((checkpoint, leaf.weight, leaf.content))
        if missing:
            raise CheckpointError(
                f"to merge a merged file again, the files it was made from are needed, and {len(missing)} of "
                f"{len(recipe.leaves)} are not where this machine saw them last: content {', '.join(missing[:3])}. "
                "Give their paths as further inputs, or take the merged file as it is with --as-is."
            )
        return leaves


def _checked(
    leaves: Sequence[OpenLeaf],
    base: Checkpoint | None,
    mask: Checkpoint | None,
    options: Options,
) -> Gathered:
    inputs = [checkpoint for checkpoint, _, _ in leaves]
    weights = [weight for _, weight, _ in leaves]
    rule, dtype = options.rule or DEFAULT_RULE, options.dtype or "keep"
    if rule == "max-magnitude" and len(set(weights)) > 1:
        raise ValueError("max-magnitude takes one value as it is: leave out the weights")
    integers, divisor = integer_weights(weights)
    ingredients = Ingredients(
        inputs=inputs,
        integers=integers,
        divisor=divisor,
        rule=RULES[rule],
        base=base,
        mask=mask,
        tensors=plan(inputs, base=base, mask=mask, dtype=dtype),
    )
    contents = [content for _, _, content in leaves]
    return Gathered(ingredients=ingredients, contents=contents, weights=weights, rule=rule, dtype=dtype)


def _same_weight(one: tuple[Fraction, Path], other: tuple[Fraction, Path]) -> None:
    if one[0] != other[0]:
        raise CheckpointError(
            f"{one[1]} and {other[1]} are the same checkpoint, with the weights {one[0]} and {other[0]}. "
            "It counts once: give it one weight."
        )


def check_contents(gathered: Gathered, contents: Sequence[str]) -> None:
    """`InvalidData` if a leaf is not what it was taken for: it has changed while it was read, or under our index."""
    for checkpoint, expected, seen in zip(gathered.ingredients.inputs, gathered.contents, contents, strict=True):
        if expected is not None and expected != seen:
            raise InvalidData(
                f"{checkpoint.path} has changed: expected content {expected[:16]}, read {seen[:16]}. Try again."
            )
