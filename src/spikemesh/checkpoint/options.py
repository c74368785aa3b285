"""What a user says of a merge: what it means (`Options`), and where and how its result is written (`Place`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from spikemesh.checkpoint.recipe import DTYPES, RULES


class Choices(TypedDict, total=False):
    """The fields of `Options`, as keyword arguments of `merge`."""

    rule: str | None
    dtype: str | None
    as_is: bool


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to merge; None is: as the merged inputs were made, or the default. `ValueError` for unknown values."""

    rule: str | None = None
    """One of `recipe.RULES`; the active mean without one."""
    dtype: str | None = None
    """Type of the result's floats: keep, f32, f16 or bf16."""
    as_is: bool = False
    """Take merged inputs as files, not as what they were merged from."""

    def __post_init__(self) -> None:
        if self.rule is not None and self.rule not in RULES:
            raise ValueError(f"expected a rule of {', '.join(RULES)}, got {self.rule!r}")
        if self.dtype is not None and self.dtype not in ("keep", *DTYPES):
            raise ValueError(f"expected a type of keep, {', '.join(DTYPES)}, got {self.dtype!r}")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the result goes, and how."""

    out: Path
    companions_from: Path | None = None
    """The folder that configuration and tokenizer come from; without it the base, or one of the inputs."""
    shard_bytes: int | None = None
    force: bool = False
    """Replace what is there."""
