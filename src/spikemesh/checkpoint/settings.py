"""What was asked for, of inputs and by options, as what it means for the leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from spikemesh.checkpoint.leaves import OpenLeaf
from spikemesh.checkpoint.options import Options
from spikemesh.checkpoint.plan import BASE_NUMBER, Settings
from spikemesh.checkpoint.recipe import BASE, PLAIN, Recipe
from spikemesh.checkpoint.rows import Matching
from spikemesh.checkpoint.selection import Selection
from spikemesh.checkpoint.source import Checkpoint
from spikemesh.checkpoint.vocabulary import vocabulary_of
from spikemesh.errors import CheckpointError


def wanted_of(options: Options, made: Recipe | None) -> Recipe:
    """What was asked for, or as the merged inputs were made, or the default. Without what names inputs by content."""
    like = made or PLAIN
    return replace(
        like,
        leaves=frozenset(),
        rule=options.rule or like.rule,
        dtype=options.dtype or like.dtype,
        skip=tuple(options.skip) or like.skip,
        integers=options.integers or like.integers,
        allow_non_finite=options.allow_non_finite or like.allow_non_finite,
        disjoint=options.disjoint or like.disjoint,
        vocab=options.vocab or like.vocab,
        tokens=(),
        version=PLAIN.version,
    )


def said_of(wanted: Recipe, options: Options) -> dict[str, Any]:
    """What a user says of exceptions counts for all leaves, however they were merged before."""
    names = [name for name in ("skip", "integers", "vocab") if getattr(options, name)]
    names += ["take", "weight_of"] if options.take or options.weight_of else []
    return {name: getattr(wanted, name) for name in names}


def weighed(recipe: Recipe, weight: Fraction | None, by_leaves: bool) -> Recipe:
    """The leaves of one input with the weights that they have in the whole."""
    if weight is None:
        return recipe.counted()
    return recipe.counted().scaled(weight) if by_leaves else recipe.shared(weight)


Selected = tuple[Sequence[tuple[str, frozenset[int]]], Sequence[tuple[str, int, Fraction]]]
"""`Settings.take` and `Settings.weight_of`."""


def by_place(selection: Selection, num_inputs: int) -> Selected:
    """As if every input were a leaf."""
    take = [(pattern, frozenset({BASE_NUMBER if i is None else i})) for pattern, i in selection.take]
    return take, selection.weight_of


def of_leaves(selection: Selection, leaves: Sequence[OpenLeaf], scale: Fraction, *, divided: bool) -> Selected:
    """An input is the leaves that it stands for; its weight is divided over them as their weights are."""

    def of(place: int | None) -> list[int]:
        return [BASE_NUMBER] if place is None else [i for i, leaf in enumerate(leaves) if place in leaf.places]

    weight_of = []
    for pattern, place, weight in selection.weight_of:
        numbers = of(place)
        total = sum((leaves[i].weight for i in numbers), Fraction())
        for i in numbers:
            share = leaves[i].weight / total if divided else Fraction(1)
            weight_of.append((pattern, i, weight * scale * share))
    return [(pattern, frozenset(of(place))) for pattern, place in selection.take], weight_of


def of_contents(recipe: Recipe, numbers: Mapping[str, int]) -> Selected:
    """As a recipe says it. `CheckpointError` for what is none of the leaves."""
    named = [content for take in recipe.take for content in take.contents] + [w.content for w in recipe.weight_of]
    numbers = {**numbers, BASE: BASE_NUMBER}
    strangers = [content for content in named if content not in numbers]
    if strangers:
        raise CheckpointError(f"the recipe takes tensors from content {strangers[0]}, which is none of its inputs.")
    take = [(take.pattern, frozenset(numbers[content] for content in take.contents)) for take in recipe.take]
    return take, [(weight.pattern, numbers[weight.content], weight.weight) for weight in recipe.weight_of]


def settings_of(
    wanted: Recipe, weights: Sequence[Fraction], selected: Selected, leaves: Sequence[OpenLeaf] = ()
) -> Settings:
    contents = sorted(leaf.content or "" for leaf in leaves)
    return Settings(
        rule=wanted.rule,
        dtype=wanted.dtype,
        weights=weights,
        skip=wanted.skip,
        take=selected[0],
        weight_of=selected[1],
        integers=wanted.integers,
        ranks=[contents.index(leaf.content or "") for leaf in leaves] or range(len(weights)),
        allow_non_finite=wanted.allow_non_finite,
        disjoint=wanted.disjoint,
        version=wanted.version,
    )


def matching_of(wanted: Recipe, leaves: Sequence[OpenLeaf], base: Checkpoint | None) -> Matching | None:
    """The vocabularies of everything, where rows are to be matched. `CheckpointError` if they are not as recorded."""
    if wanted.vocab is None:
        return None
    found = Matching(
        whose=wanted.vocab,
        inputs=[vocabulary_of([leaf.checkpoint, *leaf.copies]) for leaf in leaves],
        base=None if base is None else vocabulary_of([base]),
    )
    found.require_alike()
    recorded = {tokens.content: tokens.digest for tokens in wanted.tokens}
    beside = [] if found.base is None else [(BASE, found.base)]
    for content, vocabulary in [*((leaf.content, v) for leaf, v in zip(leaves, found.inputs, strict=True)), *beside]:
        if recorded and recorded.get(content or "") != vocabulary.digest:
            raise CheckpointError(
                f"{vocabulary.path} has other tokens than when this was merged. Put the tokenizer of then beside it."
            )
    return found
