"""Reading a frozen settings class back from plain scalars that come from outside, such as a genesis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from spikemesh.errors import InvalidData

Settings = TypeVar("Settings")


def read_settings(kind: type[Settings], values: Mapping[str, object]) -> Settings:
    """`kind(**values)`, where every field of the dataclass `kind` has an int or float default of its own type.

    Raises `InvalidData` for an unknown key, a wrong type or a value that `kind` refuses.
    """
    types: dict[str, type] = {field.name: type(field.default) for field in fields(kind)}  # type: ignore[arg-type]
    checked: dict[str, Any] = {}
    for name, value in values.items():
        wanted = types.get(name)
        if wanted is None:
            raise InvalidData(
                f"expected settings among {sorted(types)}, got {name[:64]!r}; is it a newer version's run?"
            )
        if isinstance(value, bool) or not isinstance(value, (int, float) if wanted is float else int):
            raise InvalidData(f"expected {name} to be {wanted.__name__}, got {type(value).__name__}")
        checked[name] = value
    try:
        return kind(**{name: types[name](value) for name, value in checked.items()})
    except (ValueError, OverflowError) as error:
        raise InvalidData(f"settings out of bounds: {error}") from error


def check_bounds(settings: object, bounds: tuple[tuple[str, float, float], ...]) -> None:
    """`ValueError` unless every named field lies in low..high, ends included; NaN does not."""
    for name, low, high in bounds:
        value = getattr(settings, name)
        if not low <= value <= high:
            raise ValueError(f"{name} must lie in {low}..{high}, got {value}")
