"""What a merged file is made of: its leaves and the rule. Two recipes join like the OR-Sets they are.

A merge of merged files goes back to their leaves, so any order, repetition and grouping of the same files is the same
recipe, and the same recipe is the same bytes. A recipe is written into the metadata of what was merged from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import msgspec

from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.kernels import MAX_INPUTS, MAX_WEIGHT, Rule

METADATA_KEY = "spikemesh.merge"
CHECKSUM_KEY = "spikemesh.checksum"
"""Beside the recipe: the merged file's own checksum. A file that was changed afterwards no longer has it."""
ADAPTERS_KEY = "spikemesh.adapters"
"""In the place of a recipe, in what adapters were merged into."""
FORMAT = 1

Dtype = Literal["keep", "bf16", "f16", "f32"]
DTYPES: Mapping[str, str] = {"bf16": "BF16", "f16": "F16", "f32": "F32"}
"""Choices of the element type of the result, and safetensors' names for them."""

RULES: Mapping[str, Rule] = {rule.name.lower().replace("_", "-"): rule for rule in Rule}


WEIGHT = re.compile(r"[0-9]{1,20}/[0-9]{1,20}|[0-9]{0,20}\.?[0-9]{1,20}(e-?[0-9]{1,2})?", re.ASCII | re.IGNORECASE)
"""Long powers of ten would take long to find out that they are too long."""


@dataclass(frozen=True, order=True)
class Leaf:
    """One checkpoint that nobody merged, by the hash of its tensors (`content.CONTENT`), and its weight."""

    content: str
    weight: Fraction = Fraction(1)


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

    def join(self, other: Recipe) -> Recipe:
        """Both together. `CheckpointError` if they were not made by the same rule, base, mask and type."""
        for name in ("rule", "base", "mask", "dtype"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise CheckpointError(
                    f"these merges do not go together: one was made with {name} {mine or 'none'}, the other with "
                    f"{theirs or 'none'}. Merge the original files with one {name}, or take merged files as they are "
                    "with --as-is."
                )
        return Recipe(
            rule=self.rule, leaves=self.leaves | other.leaves, base=self.base, mask=self.mask, dtype=self.dtype
        )

    def scaled(self, factor: Fraction) -> Recipe:
        """The same with every leaf's weight times `factor`: what a weight for a merged file means."""
        leaves = frozenset(Leaf(leaf.content, leaf.weight * factor) for leaf in self.leaves)
        return Recipe(rule=self.rule, leaves=leaves, base=self.base, mask=self.mask, dtype=self.dtype)

    def to_metadata(self) -> str:
        """Canonical JSON. Its length depends on the weights and the number of leaves, not on the hashes."""
        leaves = [{"content": leaf.content, "weight": str(leaf.weight)} for leaf in sorted(self.leaves)]
        value = {
            "format": FORMAT,
            "rule": self.rule,
            "base": self.base,
            "mask": self.mask,
            "dtype": self.dtype,
            "leaves": leaves,
        }
        return msgspec.json.encode(value).decode()


class _Leaf(msgspec.Struct):
    content: str
    weight: str


class _Recipe(msgspec.Struct):
    format: int
    rule: str
    leaves: list[_Leaf]
    base: str | None = None
    mask: str | None = None
    dtype: str = "keep"


def read_recipe(metadata: Mapping[str, str], *, path: Path | str = "this file") -> Recipe | None:
    """The recipe in the metadata of the file at `path`; None if it was not merged. `InvalidData` if it is damaged."""
    text = metadata.get(METADATA_KEY)
    if text is None:
        return None
    try:
        raw = msgspec.json.decode(text, type=_Recipe)
        leaves = frozenset(Leaf(_content(leaf.content), parse_weight(leaf.weight)) for leaf in raw.leaves)
        for content in (raw.base, raw.mask):
            if content is not None:
                _content(content)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidData(f"the record in {path} of what was merged is damaged: {error!s:.200}") from error
    if raw.format != FORMAT or raw.rule not in RULES or raw.dtype not in ("keep", *DTYPES) or not leaves:
        raise InvalidData(f"the record in {path} of what was merged is not of this version: {text:.200}")
    return Recipe(rule=raw.rule, leaves=leaves, base=raw.base, mask=raw.mask, dtype=raw.dtype)


def _content(text: str) -> str:
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError(f"expected a hash of 64 hex digits, got {text[:70]!r}")
    return text


def parse_weight(text: str | float | Fraction) -> Fraction:
    """A positive weight, exactly as it was written: "0.7" is 7/10. `ValueError` if it is none."""
    if not WEIGHT.fullmatch(str(text)):
        raise ValueError(f"expected a weight such as 1, 0.7 or 2/3, got {str(text)[:50]!r}")
    try:
        weight = Fraction(str(text))
    except ZeroDivisionError as error:
        raise ValueError(f"expected a weight such as 1, 0.7 or 2/3, got {str(text)[:50]!r}") from error
    if not 0 < weight < MAX_WEIGHT or weight.denominator > MAX_WEIGHT:
        raise ValueError(f"expected a weight above 0 and of a few digits, got {str(text)[:50]!r}")
    return weight


def integer_weights(weights: Iterable[Fraction]) -> tuple[list[int], int]:
    """Weights as integers over one divisor: 0.7 and 0.3 are [7, 3] and 10. `CheckpointError` if they do not fit."""
    exact = list(weights)
    divisor = math.lcm(*(weight.denominator for weight in exact))
    integers = [int(weight * divisor) for weight in exact]
    common = math.gcd(divisor, *integers)
    integers, divisor = [weight // common for weight in integers], divisor // common
    if len(integers) > MAX_INPUTS:
        raise CheckpointError(f"expected at most {MAX_INPUTS} different checkpoints, got {len(integers)}.")
    if sum(integers) + divisor > MAX_WEIGHT:
        raise CheckpointError(
            f"the weights are whole numbers up to {max(integers)} over {divisor}: too long. Use fewer digits."
        )
    return integers, divisor
