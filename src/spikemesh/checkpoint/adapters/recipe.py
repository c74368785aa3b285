"""What a model is made of that adapters were merged into: its base and each adapter with its weight, by content."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import msgspec

from spikemesh.checkpoint.recipe import ADAPTERS_KEY, CHECKSUM_KEY, DTYPES, METADATA_KEY, STACK_KEY, parse_weight
from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.kernels import MAX_INTEGER

FORMAT = 1
RULES = ("sum", "mean")
OURS = (ADAPTERS_KEY, STACK_KEY, METADATA_KEY, CHECKSUM_KEY)
"""What a result says of itself, and nothing that comes out of it may say after it."""


@dataclass(frozen=True, order=True)
class AdapterLeaf:
    """One adapter: the content of its tensors, what its configuration means for them, and its weight."""

    content: str
    meaning: str
    weight: Fraction = Fraction(1)

    @property
    def identity(self) -> tuple[str, str]:
        return self.content, self.meaning


@dataclass(frozen=True, kw_only=True)
class AdapterRecipe:
    """Everything that the bytes of the result depend on, apart from how they are cut into shards."""

    base: str
    leaves: frozenset[AdapterLeaf]
    dtype: str = "keep"

    @property
    def rule(self) -> str:
        """For people, beside the rules for whole checkpoints."""
        return "sum of adapters"

    @property
    def mask(self) -> None:
        """Adapters have none."""
        return None

    def without(self, identities: Collection[tuple[str, str]]) -> AdapterRecipe:
        """The same without some adapters."""
        return replace(self, leaves=frozenset(leaf for leaf in self.leaves if leaf.identity not in identities))

    def to_metadata(self) -> str:
        """Canonical JSON. Its length depends on the weights and the number of leaves, not on the hashes."""
        value = {"format": FORMAT, "base": self.base, "dtype": self.dtype, "adapters": _written(self.leaves)}
        return msgspec.json.encode(value).decode()


@dataclass(frozen=True, kw_only=True)
class StackRecipe:
    """Adapters merged with each other: everything that the tensors of the result depend on."""

    leaves: frozenset[AdapterLeaf]
    rule: ClassVar[str] = "sum of adapters"
    dtype: ClassVar[str] = "keep"
    base: ClassVar[None] = None
    mask: ClassVar[None] = None

    def to_metadata(self) -> str:
        """Canonical JSON, as of `AdapterRecipe`."""
        return msgspec.json.encode({"format": FORMAT, "adapters": _written(self.leaves)}).decode()


def _written(leaves: Collection[AdapterLeaf]) -> list[dict[str, str]]:
    return [{"content": leaf.content, "meaning": leaf.meaning, "weight": str(leaf.weight)} for leaf in sorted(leaves)]


class _Leaf(msgspec.Struct):
    content: str
    meaning: str
    weight: str


class _StackRecipe(msgspec.Struct):
    format: int
    adapters: list[_Leaf]


class _Recipe(_StackRecipe):
    base: str
    dtype: str


def read_adapter_recipe(metadata: Mapping[str, str], *, path: Path) -> AdapterRecipe | None:
    """The recipe in a file's metadata; None if no adapters were merged into it. `InvalidData` if it is damaged."""
    text = metadata.get(ADAPTERS_KEY)
    if text is None:
        return None
    try:
        raw = msgspec.json.decode(text, type=_Recipe)
        leaves = _leaves(raw)
        _hash(raw.base)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidData(f"the record in {path} of its adapters is damaged: {error!s:.200}") from error
    if raw.format != FORMAT or raw.dtype not in ("keep", *DTYPES) or not leaves:
        raise InvalidData(f"the record in {path} of its adapters is not of this version: {text:.200}")
    return AdapterRecipe(base=raw.base, leaves=leaves, dtype=raw.dtype)


def read_stack_recipe(metadata: Mapping[str, str], *, path: Path) -> StackRecipe | None:
    """The recipe in the metadata of an adapter; None if it was not made of adapters. `InvalidData` if it is damaged."""
    text = metadata.get(STACK_KEY)
    if text is None:
        return None
    try:
        raw = msgspec.json.decode(text, type=_StackRecipe)
        leaves = _leaves(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidData(f"the record in {path} of its adapters is damaged: {error!s:.200}") from error
    if raw.format != FORMAT or not leaves:
        raise InvalidData(f"the record in {path} of its adapters is not of this version: {text:.200}")
    return StackRecipe(leaves=leaves)


def _leaves(raw: _StackRecipe) -> frozenset[AdapterLeaf]:
    return frozenset(
        AdapterLeaf(_hash(leaf.content), _hash(leaf.meaning), signed_weight(leaf.weight)) for leaf in raw.adapters
    )


def _hash(text: str) -> str:
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError(f"expected a hash of 64 hex digits, got {text[:70]!r}")
    return text


def signed_weight(text: str | float | Fraction) -> Fraction:
    """A weight exactly as it was written; a negative one takes an adapter away. `ValueError` if it is none."""
    size = parse_weight(str(text).removeprefix("-"))
    return -size if str(text).startswith("-") else size


def require_known(rule: str, dtype: str = "keep") -> None:
    """`ValueError` for what adapters are not merged by, or to."""
    if rule not in RULES or dtype not in ("keep", *DTYPES):
        raise ValueError(
            f"expected of adapters a rule of {', '.join(RULES)} and a type of keep, {', '.join(DTYPES)}, got {rule!r} "
            f"and {dtype!r}"
        )


def weights_of(given: Sequence[str | float | Fraction] | None, count: int, rule: str) -> list[Fraction]:
    """One weight per adapter: as they are for `sum`, relative to each other for `mean`."""
    if given is not None and len(given) != count:
        raise ValueError(f"expected one weight per adapter, got {len(given)} for {count}")
    weights = [Fraction(1)] * count if given is None else list(map(signed_weight, given))
    if rule == "sum":
        return weights
    if (total := sum(weights)) == 0:
        raise ValueError("expected weights with a sum that is not 0 for mean")
    return [weight / total for weight in weights]


def over_one_divisor(weights: Sequence[Fraction]) -> tuple[list[int], int]:
    """Weights as integers over one divisor. `CheckpointError` if they do not fit."""
    divisor = math.lcm(*(weight.denominator for weight in weights))
    integers = [int(weight * divisor) for weight in weights]
    if max(divisor, *map(abs, integers), 1) > MAX_INTEGER:
        raise CheckpointError(f"the weights are whole numbers over {divisor}: too long. Use fewer digits.")
    return integers, divisor


def result_metadata(base: Mapping[str, str], recipe: AdapterRecipe | None, checksum: str) -> dict[str, str]:
    """What the base says, and what the result is made of. Without a recipe it is the base itself."""
    if recipe is None:
        return dict(base)
    said = {key: text for key, text in base.items() if key not in OURS}
    return {"format": "pt", **said, ADAPTERS_KEY: recipe.to_metadata(), CHECKSUM_KEY: checksum}
