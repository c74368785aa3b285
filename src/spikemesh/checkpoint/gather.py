"""From the paths that a user gives to opened leaves with weights: everything that can go wrong before the long work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from spikemesh.checkpoint.adapters.adapter import is_adapter
from spikemesh.checkpoint.checks import check
from spikemesh.checkpoint.content import CHECKSUM, CONTENT, Kind, sample_hash, tree_hash
from spikemesh.checkpoint.engine import Ingredients
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.leaves import Gathered, OpenLeaf, require_same_weight
from spikemesh.checkpoint.opening import open_checkpoint
from spikemesh.checkpoint.options import Options
from spikemesh.checkpoint.plan import Settings, plan
from spikemesh.checkpoint.recipe import CHECKSUM_KEY, SLERP, Leaf, Recipe, read_recipe
from spikemesh.checkpoint.rows import Matching
from spikemesh.checkpoint.selection import Selection, select
from spikemesh.checkpoint.settings import (
    by_place,
    matching_of,
    of_contents,
    of_leaves,
    said_of,
    settings_of,
    wanted_of,
    weighed,
)
from spikemesh.checkpoint.source import Checkpoint
from spikemesh.checkpoint.weights import fitted
from spikemesh.errors import CheckpointError
from spikemesh.progress import Progress

EXTRAS = {"base": "--base", "mask": "--mask-from"}
"""What a merge may take beside its inputs, and the options that name it."""


class Gathering:
    """Opens what a merge needs and finds out what it is; everything that it opens closes with `stack`.

    `quick` reads no file to the end: what is not known yet is told from other files by a sample.
    """

    def __init__(self, stack: ExitStack, known: KnownFiles, progress: Progress, *, quick: bool = False) -> None:
        self._stack = stack
        self._known = known
        self._progress = progress
        self._quick = quick

    def open(self, given: Path | Checkpoint) -> Checkpoint:
        if isinstance(given, Checkpoint):
            return given
        if is_adapter(given):
            raise CheckpointError(
                f"{given} is a LoRA adapter, and a mean of factors is not the mean of adapters. `spikemesh merge` of "
                "adapters alone, with --base for a model, merges what they add; in Python, checkpoint.adapters does."
            )
        checkpoint = open_checkpoint(given)
        self._stack.callback(checkpoint.close)
        return checkpoint

    def content(self, checkpoint: Checkpoint) -> str:
        """Its content hash: remembered if its files have not been touched since, else by reading all of it."""
        return self._hash(checkpoint, CONTENT)

    def _hash(self, checkpoint: Checkpoint, kind: Kind) -> str:
        value = self._known.hash_of(checkpoint, kind)
        if value is None and self._quick:
            return sample_hash(checkpoint).hex()
        if value is None:
            value = tree_hash(checkpoint, kind, self._progress)
            self._known.remember(checkpoint, value, kind)
        return value

    def gather(
        self,
        given: Sequence[Path | Checkpoint],
        *,
        base: Path | Checkpoint | None,
        mask: Path | Checkpoint | None,
        weights: Sequence[Fraction] | None,
        options: Options,
    ) -> Gathered:
        """Everything a merge of `given` needs. See `merge.merge` for what is raised."""
        if not given:
            raise ValueError("expected at least one checkpoint, got none")
        if weights is not None and len(weights) != len(given):
            raise ValueError(f"expected one weight per checkpoint, got {len(weights)} for {len(given)}")
        opened = [self.open(one) for one in given]
        recipes = [None if options.as_is else read_recipe(c.metadata, path=c.path) for c in opened]
        made = next((recipe for recipe in recipes if recipe is not None), None)
        extras = {
            "base": self._extra("base", base, None if made is None else made.base),
            "mask": self._extra("mask", mask, None if made is None else made.mask),
        }
        wanted = wanted_of(options, made)
        signed = wanted.rule == "sum"
        if weights is not None and not signed and any(weight < 0 for weight in weights):
            raise ValueError("negative weights need the rule sum: the others are means")
        selection = select(options, [c.path for c in opened], has_base=extras["base"] is not None, signed=signed)
        if made is None:
            early = settings_of(wanted, [Fraction(1)] * len(opened), by_place(selection, len(opened)))
            if wanted.vocab is None:
                check(plan(opened, early, **extras), disjoint=wanted.disjoint)  # before anything is read
            leaves = self._without_copies(opened, weights)
        else:
            leaves = self._regroup(opened, recipes, weights, extras, wanted, options)
        return self._assembled(leaves, extras, wanted, selection)

    def _assembled(
        self,
        leaves: Sequence[OpenLeaf],
        extras: Mapping[str, Checkpoint | None],
        wanted: Recipe,
        selection: Selection,
    ) -> Gathered:
        """The leaves with weights that the kernels take, everything that was said of inputs said of leaves."""
        if wanted.rule == "max-magnitude" and len({leaf.weight for leaf in leaves}) > 1:
            raise ValueError("max-magnitude takes one value as it is: leave out the weights")
        exact = [leaf.weight for leaf in leaves]
        weights, rounded = fitted(exact, absolute=wanted.rule == "sum")
        scale = weights[0] / exact[0]
        leaves = [replace(leaf, weight=weight) for leaf, weight in zip(leaves, weights, strict=True)]
        selected = of_leaves(selection, leaves, scale, divided=wanted.rule != "sum")
        if wanted.integers == "first":
            leaves = [replace(leaf, content=leaf.content or self.content(leaf.checkpoint)) for leaf in leaves]
        if not selection.take and not selection.weight_of:
            numbers = {leaf.content: i for i, leaf in enumerate(leaves) if leaf.content is not None}
            selected = of_contents(wanted, numbers)
        settings = settings_of(wanted, weights, selected, leaves)
        return _checked(leaves, extras, settings, matching_of(wanted, leaves, extras["base"]), rounded)

    def from_recipe(
        self, recipe: Recipe, given: Sequence[Path], *, base: Path | Checkpoint | None, mask: Path | Checkpoint | None
    ) -> Gathered:
        """The leaves of a recipe, by content among `given` or where this machine saw them last; no more and no less."""
        extras = {"base": self._extra("base", base, recipe.base), "mask": self._extra("mask", mask, recipe.mask)}
        for name, extra in extras.items():
            expected = getattr(recipe, name)
            if (None if extra is None else self.content(extra)) != expected:
                raise CheckpointError(
                    f"the {name} is not the one that was merged with: expected {_content_text(expected)}."
                )
        contents = {leaf.content for leaf in recipe.leaves}
        copies: dict[str, list[tuple[int, Checkpoint]]] = {}
        for place, checkpoint in enumerate(map(self.open, given)):
            content = self.content(checkpoint)
            inner = read_recipe(checkpoint.metadata, path=checkpoint.path)
            if content in contents:
                copies.setdefault(content, []).append((place, checkpoint))
            elif inner is None or not contents.issuperset(leaf.content for leaf in inner.leaves):
                raise CheckpointError(f"{checkpoint.path} was not merged into this file.")
        leaves = self._leaves(recipe, copies)
        numbers = {str(leaf.content): i for i, leaf in enumerate(leaves)}
        weights = [leaf.weight for leaf in leaves]
        settings = settings_of(recipe, weights, of_contents(recipe, numbers), leaves)
        return _checked(leaves, extras, settings, matching_of(recipe, leaves, extras["base"]), False)

    def _extra(self, name: str, given: Path | Checkpoint | None, content: str | None) -> Checkpoint | None:
        """The base or mask of a merge: what the user gives, or where this machine saw that of an earlier merge."""
        path = given
        if given is None and content is not None:
            path = self._known.find(content)
            if path is None:
                raise CheckpointError(f"the merge used a {name} of content {content}. Give it with {EXTRAS[name]}.")
        return None if path is None else self.open(path)

    # ---- inputs that nobody merged -----------------------------------------------------------------------------------

    def _without_copies(self, opened: Sequence[Checkpoint], weights: Sequence[Fraction] | None) -> list[OpenLeaf]:
        """Two copies are one leaf: without weights it counts once, given weights add up.

        Only those that a sample cannot tell apart are read in full to find out.
        """
        samples = [sample_hash(checkpoint) for checkpoint in opened]
        repeated = {sample for sample, count in Counter(samples).items() if count > 1}
        leaves: list[OpenLeaf] = []
        for place, (checkpoint, sample) in enumerate(zip(opened, samples, strict=True)):
            weight = Fraction(1) if weights is None else weights[place]
            content = self.content(checkpoint) if sample in repeated else None
            first = next((i for i, seen in enumerate(leaves) if content and seen.content == content), None)
            if first is None:
                places = frozenset({place})
                leaves.append(OpenLeaf(checkpoint=checkpoint, weight=weight, content=content, places=places))
                continue
            seen = leaves[first]
            leaves[first] = replace(
                seen,
                weight=seen.weight + (weight if weights is not None else 0),
                copies=(*seen.copies, checkpoint),
                places=seen.places | {place},
            )
        return leaves

    # ---- inputs that were merged before ------------------------------------------------------------------------------

    def _regroup(
        self,
        opened: Sequence[Checkpoint],
        recipes: Sequence[Recipe | None],
        weights: Sequence[Fraction] | None,
        extras: Mapping[str, Checkpoint | None],
        wanted: Recipe,
        options: Options,
    ) -> list[OpenLeaf]:
        """The leaves of everything, each opened, by the weights of what they were given as."""
        base, mask = (None if extra is None else self.content(extra) for extra in (extras["base"], extras["mask"]))
        joined = replace(wanted, base=base, mask=mask)
        said = said_of(joined, options)
        copies: dict[str, list[tuple[int, Checkpoint]]] = {}
        merges: dict[str, list[tuple[int, Checkpoint]]] = {}
        added: dict[str, Fraction] = {}
        for place, (checkpoint, recipe) in enumerate(zip(opened, recipes, strict=True)):
            if recipe is None:
                content = self.content(checkpoint)
                copies.setdefault(content, []).append((place, checkpoint))
                recipe = replace(joined, leaves=frozenset({Leaf(content)}))
            else:
                self._require_unchanged(checkpoint, recipe)
                for leaf in recipe.leaves:
                    merges.setdefault(leaf.content, []).append((place, checkpoint))
            recipe = replace(recipe, **said)
            shares = weighed(recipe, None if weights is None else weights[place], options.by_leaves)
            joined = joined.join(shares)
            for leaf in shares.leaves:
                added[leaf.content] = added.get(leaf.content, Fraction()) + leaf.weight
        if weights is not None:
            joined = replace(joined, leaves=frozenset(Leaf(content, total) for content, total in added.items()))
        return [
            replace(
                leaf,
                merges=tuple(checkpoint for _, checkpoint in merges.get(leaf.content or "", ())),
                places=leaf.places | {place for place, _ in merges.get(leaf.content or "", ())},
            )
            for leaf in self._leaves(joined, copies)
        ]

    def _require_unchanged(self, checkpoint: Checkpoint, recipe: Recipe) -> None:
        """A merged file that was changed afterwards cannot stand for its leaves."""
        recorded = checkpoint.metadata.get(CHECKSUM_KEY)
        if self._quick and self._known.hash_of(checkpoint, CHECKSUM) is None:
            return
        if self._hash(checkpoint, CHECKSUM) != recorded:
            raise CheckpointError(
                f"{checkpoint.path} was merged from {len(recipe.leaves)} files and changed afterwards, so it "
                "cannot stand for them. Take it as it is with --as-is."
            )

    def _leaves(self, recipe: Recipe, copies: Mapping[str, Sequence[tuple[int, Checkpoint]]]) -> list[OpenLeaf]:
        """The leaves of a recipe, from files at hand or where this machine saw them last."""
        leaves: dict[str, OpenLeaf] = {}
        missing = []
        for leaf in sorted(recipe.leaves):
            given = copies.get(leaf.content, ())
            files = [checkpoint for _, checkpoint in given] or self._find(leaf.content)
            if not files:
                missing.append(leaf.content)
                continue
            found = OpenLeaf(
                checkpoint=files[0],
                weight=leaf.weight,
                content=leaf.content,
                copies=tuple(files[1:]),
                places=frozenset(place for place, _ in given),
            )
            require_same_weight(leaves.setdefault(leaf.content, found), found)
        if missing:
            raise CheckpointError(
                f"to merge a merged file again, the files it was made from are needed, and {len(missing)} of "
                f"{len(recipe.leaves)} are not where this machine saw them last: content {', '.join(missing[:3])}. "
                "Give their paths as further inputs; a merge can also take the merged file as it is (--as-is)."
            )
        return list(leaves.values())

    def _find(self, content: str) -> list[Checkpoint]:
        path = self._known.find(content)
        return [] if path is None else [self.open(path)]


def _checked(
    leaves: Sequence[OpenLeaf],
    extras: Mapping[str, Checkpoint | None],
    settings: Settings,
    matching: Matching | None,
    rounded: bool,
) -> Gathered:
    settings = replace(settings, matching=matching)
    inputs = [leaf.checkpoint for leaf in leaves]
    if settings.rule == SLERP and (len(leaves) > 2 or extras["base"] is not None):
        raise ValueError(
            f"slerp goes from one checkpoint to one other, without a base: got {len(leaves)}"
            + (" and a base." if extras["base"] is not None else ". Take merged files as they are with --as-is.")
        )
    if matching is not None and (settings.rule == SLERP or extras["mask"] is not None):
        raise ValueError("--vocab goes with neither slerp nor --mask-from: both need all rows of all inputs")
    if matching is not None and matching.whose == "union" and settings.rule == "sum" and matching.base is not None:
        raise ValueError("a sum of differences from the base needs the base's rows for all tokens: use --vocab base")
    planned = plan(inputs, settings, **extras)
    if settings.version > 1:
        check(planned, disjoint=settings.disjoint)
    ingredients = Ingredients(
        inputs=inputs, tensors=planned.tensors, allow_non_finite=settings.allow_non_finite, **extras
    )
    return Gathered(ingredients=ingredients, leaves=leaves, plan=planned, settings=settings, weights_rounded=rounded)


def _content_text(content: str | None) -> str:
    return "none" if content is None else f"content {content}"
