"""The leaves of a merge, opened: what goes into it, and what was given in the place of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from spikemesh.checkpoint.engine import Ingredients
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.plan import BASE_NUMBER, Plan, Settings
from spikemesh.checkpoint.recipe import BASE, Leaf, Recipe, Take, Tokens, WeightOf
from spikemesh.checkpoint.rows import Matching
from spikemesh.checkpoint.source import Checkpoint
from spikemesh.errors import CheckpointError, InvalidData


@dataclass(frozen=True, kw_only=True)
class OpenLeaf:
    """One checkpoint that takes part. Its content is None where the long work will be the first to know."""

    checkpoint: Checkpoint
    weight: Fraction
    content: str | None = None
    copies: tuple[Checkpoint, ...] = ()
    """Other files with the same tensors that were given."""
    merges: tuple[Checkpoint, ...] = ()
    """Merges that were given and that it is part of."""
    places: frozenset[int] = frozenset()
    """Of the inputs that it, a copy of it, or a merge of it was given as."""

    @property
    def others(self) -> tuple[Checkpoint, ...]:
        """What was given in its place."""
        return self.copies + self.merges


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The leaves of a merge, opened and checked."""

    ingredients: Ingredients
    leaves: Sequence[OpenLeaf]
    plan: Plan
    settings: Settings
    weights_rounded: bool = False
    """The weights had more digits than fit, and are what is recorded."""

    def recipe(self, contents: Sequence[str], base: str | None, mask: str | None) -> Recipe:
        """What was merged, once the contents are known."""
        said = self.settings
        return Recipe(
            rule=said.rule,
            leaves=frozenset(map(Leaf, contents, said.weights)),
            base=base,
            mask=mask,
            dtype=said.dtype,
            skip=tuple(said.skip),
            take=tuple(
                Take(pattern, (BASE,) if BASE_NUMBER in numbers else tuple(sorted(contents[i] for i in numbers)))
                for pattern, numbers in said.take
            ),
            weight_of=tuple(WeightOf(pattern, contents[i], weight) for pattern, i, weight in said.weight_of),
            integers=said.integers,
            allow_non_finite=said.allow_non_finite,
            disjoint=said.disjoint,
            vocab=None if said.matching is None else said.matching.whose,
            tokens=() if said.matching is None else tuple(sorted(_tokens(said.matching, contents))),
            version=said.version,
        )


def _tokens(matching: Matching, contents: Sequence[str]) -> Iterator[Tokens]:
    for content, vocabulary in zip(contents, matching.inputs, strict=True):
        yield Tokens(content, vocabulary.digest)
    if matching.base is not None:
        yield Tokens(BASE, matching.base.digest)


def require_same_weight(one: OpenLeaf, other: OpenLeaf) -> None:
    if one.weight != other.weight:
        paths = sorted({str(leaf.checkpoint.path) for leaf in (one, other)})
        who = f"{paths[0]} comes twice" if len(paths) == 1 else f"{paths[0]} and {paths[1]} are the same checkpoint"
        raise CheckpointError(
            f"{who}, with the weights {one.weight} and {other.weight}, by itself or in what was merged before. It "
            "counts once: give every input a weight, and what reaches one checkpoint adds up; or take merged files as "
            "they are with --as-is."
        )


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
