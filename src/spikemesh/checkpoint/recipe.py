"""What a merged file is made of: its leaves and the rule. Two recipes join like the OR-Sets they are.

A merge of merged files goes back to their leaves, so any order, repetition and grouping of the same files is the same
recipe, and the same recipe is the same bytes. A recipe is written into the metadata of what was merged from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import msgspec

from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.kernels import MAX_WEIGHT, Rule

METADATA_KEY = "spikemesh.merge"
CHECKSUM_KEY = "spikemesh.checksum"
"""Beside the recipe: the merged file's own checksum. A file that was changed afterwards no longer has it."""
ADAPTERS_KEY = "spikemesh.adapters"
"""In the place of a recipe, in what adapters were merged into."""
STACK_KEY = "spikemesh.stack"
"""The same in an adapter that was made of adapters."""
FORMAT = 2

Dtype = Literal["keep", "bf16", "f16", "f32"]
DTYPES: Mapping[str, str] = {"bf16": "BF16", "f16": "F16", "f32": "F32"}
"""Choices of the element type of the result, and safetensors' names for them."""

RULES: Mapping[str, Rule] = {rule.name.lower().replace("_", "-"): rule for rule in Rule}
"""Order, repetition and grouping do not matter to these."""
SLERP, PASSTHROUGH = "slerp", "passthrough"
RULE_NAMES = (*RULES, SLERP, PASSTHROUGH)

WEIGHT = re.compile(
    r"-?(?:[0-9]{1,20}/[0-9]{1,20}|[0-9]{0,20}\.?[0-9]{1,20}(e-?[0-9]{1,2})?)", re.ASCII | re.IGNORECASE
)
"""Long powers of ten would take long to find out that they are too long."""


INTEGERS = ("counters", "max", "first", "refuse")
"""What becomes of integers that differ: the larger of single numbers alone, as BatchNorm counts its batches (others are
refused); the larger everywhere; those of the input with the smallest content hash; an error."""
VOCABS = ("base", "union")
"""Whose rows an embedding has, matched by the strings of tokens: those of the base or the reference (see `rows`); or
these, and after them those of all others."""
BASE = "base"
"""In the place of an input's content: the common base."""


@dataclass(frozen=True, order=True)
class Leaf:
    """One checkpoint that nobody merged, by the hash of its tensors (`content.CONTENT`), and its weight."""

    content: str
    weight: Fraction = Fraction(1)


@dataclass(frozen=True)
class Take:
    """Tensors whose names match come from these leaves alone, by content; from `BASE`, as they are there."""

    pattern: str
    contents: tuple[str, ...]


@dataclass(frozen=True)
class WeightOf:
    """In tensors whose names match, this leaf has this weight; with 0 it has no part in them."""

    pattern: str
    content: str
    weight: Fraction


@dataclass(frozen=True, order=True)
class Tokens:
    """The vocabulary that rows of this leaf, or of `BASE`, were matched by; a hash of its strings and ids."""

    content: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that the bytes of a merge depend on, apart from how they are cut into shards."""

    rule: str
    leaves: frozenset[Leaf]
    base: str | None = None
    """Content of the common base, if there was one."""
    mask: str | None = None
    """Content of the mask file, if there was one."""
    dtype: str = "keep"
    skip: tuple[str, ...] = ()
    """Patterns of names that are left out."""
    take: tuple[Take, ...] = ()
    """Of those that match a name the last one counts."""
    weight_of: tuple[WeightOf, ...] = ()
    integers: str = "counters"
    allow_non_finite: bool = False
    disjoint: bool = False
    """Names need not be shared."""
    vocab: str | None = None
    tokens: tuple[Tokens, ...] = ()
    """Of every leaf and the base, where there is a `vocab`."""
    version: int = FORMAT
    """1: names as they are in the files, nothing kept of what the base alone has."""

    def join(self, other: Recipe) -> Recipe:
        """Both together. `CheckpointError` if they were not made by the same rule, base, mask, type and options."""
        for name in JOINED:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise CheckpointError(
                    f"these merges do not go together: one was made with {name} {_text(mine)}, the other with "
                    f"{_text(theirs)}. Merge the original files with one {name}, or take merged files as they are "
                    "with --as-is."
                )
        return replace(
            self,
            leaves=self.leaves | other.leaves,
            allow_non_finite=self.allow_non_finite or other.allow_non_finite,
            disjoint=self.disjoint or other.disjoint,
            tokens=tuple(sorted({*self.tokens, *other.tokens})),
            version=max(self.version, other.version),
        )

    def counted(self) -> Recipe:
        """The same proportions, with weights that are 1 on average: what a merge counts without a weight of its own."""
        return self if self.rule == "sum" else self.shared(Fraction(len(self.leaves)))

    def shared(self, weight: Fraction) -> Recipe:
        """A weight for the whole: divided over the leaves, as their weights are; for a sum, times theirs."""
        total = Fraction(1) if self.rule == "sum" else sum((leaf.weight for leaf in self.leaves), Fraction())
        return self.scaled(weight / total)

    def scaled(self, factor: Fraction) -> Recipe:
        """The same with every leaf's weight times `factor`."""
        return replace(self, leaves=frozenset(Leaf(leaf.content, leaf.weight * factor) for leaf in self.leaves))

    def to_metadata(self) -> str:
        """Canonical JSON. Its length depends on the weights and the number of leaves, not on the hashes."""
        leaves = [{"content": leaf.content, "weight": str(leaf.weight)} for leaf in sorted(self.leaves)]
        value: dict[str, object] = {
            "format": self.version,
            "rule": self.rule,
            "base": self.base,
            "mask": self.mask,
            "dtype": self.dtype,
            "leaves": leaves,
        }
        value |= {name: said for name, said in self.options().items() if said != getattr(PLAIN, name)}
        return msgspec.json.encode(value, enc_hook=str).decode()

    def options(self) -> dict[str, object]:
        """What was asked for beside rule, base, mask and type, by name."""
        return {name: getattr(self, name) for name in OPTIONS}


OPTIONS = ("skip", "take", "weight_of", "integers", "allow_non_finite", "disjoint", "vocab", "tokens")
JOINED = ("rule", "base", "mask", "dtype", "skip", "take", "weight_of", "integers", "vocab")
PLAIN = Recipe(rule="active-mean", leaves=frozenset())


def _text(value: object) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode() if isinstance(value, tuple) else str(value or "none")


class _Leaf(msgspec.Struct):
    content: str
    weight: str


class _Take(msgspec.Struct):
    pattern: str
    contents: list[str]


class _WeightOf(msgspec.Struct):
    pattern: str
    content: str
    weight: str


class _Tokens(msgspec.Struct):
    content: str
    digest: str


class _Recipe(msgspec.Struct):
    format: int
    rule: str
    leaves: list[_Leaf]
    base: str | None = None
    mask: str | None = None
    dtype: str = "keep"
    skip: list[str] = []
    take: list[_Take] = []
    weight_of: list[_WeightOf] = []
    integers: str = "counters"
    allow_non_finite: bool = False
    disjoint: bool = False
    vocab: str | None = None
    tokens: list[_Tokens] = []


def read_recipe(metadata: Mapping[str, str], *, path: Path | str = "this file") -> Recipe | None:
    """The recipe in the metadata of the file at `path`; None if it was not merged. `InvalidData` if it is damaged."""
    text = metadata.get(METADATA_KEY)
    if text is None:
        return None
    try:
        raw = msgspec.json.decode(text, type=_Recipe)
        recipe = _recipe(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidData(f"the record in {path} of what was merged is damaged: {error!s:.200}") from error
    is_known = raw.rule in RULE_NAMES and raw.dtype in ("keep", *DTYPES) and raw.integers in INTEGERS
    is_known = is_known and raw.vocab in (None, *VOCABS)
    is_plain = all(said == getattr(PLAIN, name) for name, said in recipe.options().items())
    if not 1 <= raw.format <= FORMAT or not is_known or not raw.leaves or (raw.format == 1 and not is_plain):
        raise InvalidData(f"the record in {path} of what was merged is not of this version: {text:.200}")
    return recipe


def _recipe(raw: _Recipe) -> Recipe:
    signed = raw.rule == "sum"
    for content in (raw.base, raw.mask):
        if content is not None:
            _content(content)
    return Recipe(
        rule=raw.rule,
        leaves=frozenset(Leaf(_content(leaf.content), parse_weight(leaf.weight, signed=signed)) for leaf in raw.leaves),
        base=raw.base,
        mask=raw.mask,
        dtype=raw.dtype,
        skip=tuple(raw.skip),
        take=tuple(Take(t.pattern, tuple(map(_content_or_base, t.contents))) for t in raw.take),
        weight_of=tuple(
            WeightOf(w.pattern, _content(w.content), parse_weight(w.weight, signed=signed, zero=True))
            for w in raw.weight_of
        ),
        integers=raw.integers,
        allow_non_finite=raw.allow_non_finite,
        disjoint=raw.disjoint,
        vocab=raw.vocab,
        tokens=tuple(sorted(Tokens(_content_or_base(t.content), _content(t.digest)) for t in raw.tokens)),
        version=raw.format,
    )


def _content_or_base(text: str) -> str:
    return text if text == BASE else _content(text)


def _content(text: str) -> str:
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError(f"expected a hash of 64 hex digits, got {text[:70]!r}")
    return text


def parse_weight(text: str | float | Fraction, *, signed: bool = False, zero: bool = False) -> Fraction:
    """A positive weight, exactly as it was written: "0.7" is 7/10. `ValueError` if it is none.

    `signed` allows negative ones, `zero` none at all.
    """
    if not WEIGHT.fullmatch(str(text)):
        raise ValueError(f"expected a weight such as 1, 0.7 or 2/3, got {str(text)[:50]!r}")
    try:
        weight = Fraction(str(text))
    except ZeroDivisionError as error:
        raise ValueError(f"expected a weight such as 1, 0.7 or 2/3, got {str(text)[:50]!r}") from error
    if not (abs(weight) < MAX_WEIGHT and weight.denominator <= MAX_WEIGHT):
        raise ValueError(f"expected a weight of a few digits, got {str(text)[:50]!r}")
    if (weight == 0 and not zero) or (weight < 0 and not signed):
        raise ValueError(
            f"expected a weight above 0, got {str(text)[:50]!r}. Leave out a checkpoint that has no part; only the "
            "rule sum takes negative weights."
        )
    return weight
