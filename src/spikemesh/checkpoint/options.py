"""What a user says of a merge: what it means (`Options`), and where and how its result is written (`Place`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from spikemesh.checkpoint.recipe import DTYPES, INTEGERS, RULE_NAMES, VOCABS

Names = Sequence[str]
"""Patterns of tensors' names, as a shell has them for files: `*.running_mean`, `model.layers.[0-3].*`."""


KNOWN: Mapping[str, tuple[str, Sequence[str]]] = {
    "rule": ("a rule", RULE_NAMES),
    "dtype": ("a type", ("keep", *DTYPES)),
    "integers": ("a choice for integers", INTEGERS),
    "vocab": ("a vocabulary", VOCABS),
}


class Choices(TypedDict, total=False):
    """The fields of `Options`, as keyword arguments of `merge`."""

    rule: str | None
    dtype: str | None
    as_is: bool
    by_leaves: bool
    skip: Names
    take: Names
    weight_of: Names
    integers: str | None
    allow_non_finite: bool
    disjoint: bool
    vocab: str | None


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to merge; None is: as the merged inputs were made, or the default. `ValueError` for unknown values.

    An INPUT is named by its path as it was given, by the name of its file or folder, or by its place (1 is the first).
    """

    rule: str | None = None
    """One of `recipe.RULE_NAMES`; the active mean without one."""
    dtype: str | None = None
    """Type of the result's floats: keep, f32, f16 or bf16."""
    as_is: bool = False
    """Take merged inputs as files, not as what they were merged from."""
    by_leaves: bool = False
    """A weight of a merged input is that of each of its leaves (on average), instead of being divided over them."""
    skip: Names = ()
    """Patterns of tensors to leave out."""
    take: Names = ()
    """PATTERN=INPUT: tensors that come from one input alone; from the base with `PATTERN=base`."""
    weight_of: Names = ()
    """INPUT:PATTERN=0.7: another weight of one input in some tensors; 0 is no part."""
    integers: str | None = None
    """What becomes of integers that differ, one of `recipe.INTEGERS`."""
    allow_non_finite: bool = False
    """Let NaN and infinity that are not the same in all inputs spread into the result."""
    disjoint: bool = False
    """Let inputs, a base or a mask file pass that share no tensor's name with the others."""
    vocab: str | None = None
    """Match the rows of embeddings and heads by the tokens' strings, one of `recipe.VOCABS`; by place without."""

    def __post_init__(self) -> None:
        for name in ("skip", "take", "weight_of"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"expected a list of texts as {name}, got one text: put it into a list")
        if self.rule is not None and self.rule.startswith(("dare", "della")):
            raise ValueError(
                f"{self.rule} drops values by chance, and no rule here draws random numbers: two machines, or two "
                "orders, would give different results. sign-elect and trimmed-mean are what we have against conflicts."
            )
        for name, (what, known) in KNOWN.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ValueError(f"expected {what} of {', '.join(known)}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the result goes, and how."""

    out: Path
    companions_from: Path | None = None
    """The folder that configuration and tokenizer come from; without it the base, or one of the inputs."""
    shard_bytes: int | None = None
    force: bool = False
    """Replace what is there."""
