"""`PATTERN=INPUT` and `INPUT:PATTERN=0.7`: which inputs a user means, by path, name or place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from spikemesh.checkpoint.options import Options
from spikemesh.checkpoint.recipe import BASE
from spikemesh.checkpoint.weights import given_weight


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What `Options.take` and `Options.weight_of` say, with inputs by their places, from 0."""

    take: Sequence[tuple[str, int | None]]
    """(pattern, input); None is the base."""
    weight_of: Sequence[tuple[str, int, Fraction]]
    """(pattern, input, weight)."""


def select(options: Options, paths: Sequence[Path], *, has_base: bool, signed: bool) -> Selection:
    """`ValueError` for what names no input, or more than one."""
    take = [_taken(text, paths, has_base) for text in options.take]
    return Selection(take=take, weight_of=[_weighed(text, paths, signed) for text in options.weight_of])


def _taken(text: str, paths: Sequence[Path], has_base: bool) -> tuple[str, int | None]:
    pattern, equals, name = text.partition("=")
    if not pattern or not equals:
        raise ValueError(f"expected PATTERN=INPUT, such as embed.*=a.safetensors, got {text[:200]!r}")
    if name == BASE and has_base:
        return pattern, None
    number = _number(name, paths)
    if number is None:
        raise ValueError(f"expected an input in {text[:200]!r}, {_known(paths, has_base)}, got {name[:200]!r}")
    return pattern, number


def _weighed(text: str, paths: Sequence[Path], signed: bool) -> tuple[str, int, Fraction]:
    rest, equals, weight = text.rpartition("=")
    colons = [at for at, char in enumerate(rest) if char == ":"]
    found = ((_number(rest[:at], paths), rest[at + 1 :]) for at in colons)
    chosen = next(((number, pattern) for number, pattern in found if number is not None and pattern), None)
    if not equals or chosen is None:
        raise ValueError(
            f"expected INPUT:PATTERN=WEIGHT, such as a.safetensors:embed.*=0.7, with an input, "
            f"{_known(paths, False)}, got {text[:200]!r}"
        )
    return chosen[1], chosen[0], given_weight(weight, signed=signed, zero=True)


def _number(name: str, paths: Sequence[Path]) -> int | None:
    """By the path as it was given; by the name of the file or folder, if one alone has it; by the place from 1 on."""
    for spelled in ([str(path) for path in paths], [path.name for path in paths], [path.stem for path in paths]):
        if spelled.count(name) == 1:
            return spelled.index(name)
    places = [str(number) for number in range(1, len(paths) + 1)]
    return places.index(name) if name in places else None


def _known(paths: Sequence[Path], has_base: bool) -> str:
    names = [path.name for path in paths[:5]]
    return f"one of {', '.join(names)}{' or base' if has_base else ''}, or its place from 1 on"
