"""A recipe as a TOML file that can be published: inputs by content hash and, for people, a name; never a path.

format = 2
rule = "active-mean"
dtype = "keep"
skip = ["*.mem"]

[[input]]
name = "volunteer-a.safetensors"
content = "9f86d081884c7d65…"
weight = "7"

[base]
name = "start.safetensors"
content = "…"

Of adapters it has [[adapter]] in the place of [[input]], each with what its configuration means; without [base] they
are merged with each other.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from spikemesh.checkpoint.adapters.recipe import FORMAT as ADAPTER_FORMAT
from spikemesh.checkpoint.adapters.recipe import AdapterRecipe, StackRecipe
from spikemesh.checkpoint.recipe import ADAPTERS_KEY, METADATA_KEY, PLAIN, STACK_KEY, Recipe
from spikemesh.checkpoint.recorded import AnyRecipe, read_any_recipe
from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.files.rim import os_errors

MAX_BYTES = 16 << 20
EXTRAS = ("base", "mask")


def to_toml(recipe: AnyRecipe, names: Mapping[str, str]) -> str:
    """`names` by content, for people."""
    lines = _lines(recipe, names) if isinstance(recipe, Recipe) else _adapter_lines(recipe, names)
    return "\n".join(lines) + "\n"


def _adapter_lines(recipe: AdapterRecipe | StackRecipe, names: Mapping[str, str]) -> Iterator[str]:
    yield f"format = {ADAPTER_FORMAT}"
    if recipe.base is not None:
        yield f"dtype = {_string(recipe.dtype)}"
    for leaf in sorted(recipe.leaves):
        yield from ("", "[[adapter]]", *_named(leaf.content, names), f"meaning = {_string(leaf.meaning)}")
        yield f"weight = {_string(str(leaf.weight))}"
    if recipe.base is not None:
        yield from ("", "[base]", *_named(recipe.base, names))


def _lines(recipe: Recipe, names: Mapping[str, str]) -> Iterator[str]:
    yield f"format = {recipe.version}"
    yield f"rule = {_string(recipe.rule)}"
    yield f"dtype = {_string(recipe.dtype)}"
    for name in ("integers", "allow_non_finite", "disjoint"):
        if getattr(recipe, name) != getattr(PLAIN, name):
            yield f"{name} = {json.dumps(getattr(recipe, name))}"
    if recipe.vocab is not None:
        yield f"vocab = {_string(recipe.vocab)}"
    if recipe.skip:
        yield f"skip = {_strings(recipe.skip)}"
    for leaf in sorted(recipe.leaves):
        yield from ("", "[[input]]", *_named(leaf.content, names), f"weight = {_string(str(leaf.weight))}")
    for name in EXTRAS:
        content = getattr(recipe, name)
        if content is not None:
            yield from ("", f"[{name}]", *_named(content, names))
    for take in recipe.take:
        yield from ("", "[[take]]", f"pattern = {_string(take.pattern)}", f"contents = {_strings(take.contents)}")
    for weight in recipe.weight_of:
        yield from ("", "[[weight_of]]", f"pattern = {_string(weight.pattern)}")
        yield from (f"content = {_string(weight.content)}", f"weight = {_string(str(weight.weight))}")
    for tokens in recipe.tokens:
        yield from ("", "[[tokens]]", f"content = {_string(tokens.content)}", f"digest = {_string(tokens.digest)}")


def _named(content: str, names: Mapping[str, str]) -> Iterator[str]:
    if content in names:
        yield f"name = {_string(names[content])}"
    yield f"content = {_string(content)}"


def _string(text: str) -> str:
    return json.dumps(text.encode(errors="replace").decode(), ensure_ascii=False).replace("\x7f", "\\u007f")


def _strings(texts: tuple[str, ...]) -> str:
    return f"[{', '.join(map(_string, texts))}]"


def read_recipe_file(path: Path) -> AnyRecipe:
    """`InvalidData` for what is no recipe, `CheckpointError` if there is no such file."""
    with os_errors("reading", path):
        if not path.is_file():
            raise CheckpointError(f"{path} is not there. Expected a recipe as `spikemesh inspect --recipe` prints it.")
        data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
    try:
        said = tomllib.loads(data.decode())
        is_of_adapters = "adapter" in said
        text = msgspec.json.encode((_as_adapter_metadata if is_of_adapters else _as_metadata)(said)).decode()
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        why = f"{error!s:.200} is missing" if isinstance(error, KeyError) else f"{error!s:.200}"
        raise InvalidData(
            f"{path} is no recipe of a merge: {why}. Expected what `spikemesh inspect --recipe` prints."
        ) from error
    key = METADATA_KEY if not is_of_adapters else ADAPTERS_KEY if "base" in said else STACK_KEY
    recipe = read_any_recipe({key: text}, path=path)
    assert recipe is not None, "the key is there"
    return recipe


KEYS = frozenset(
    (
        "format",
        "rule",
        "dtype",
        "integers",
        "allow_non_finite",
        "disjoint",
        "skip",
        "take",
        "weight_of",
        "vocab",
        "tokens",
        "input",
        *EXTRAS,
    )
)


STACK_KEYS = frozenset(("format", "adapter"))
ADAPTER_KEYS = STACK_KEYS | {"dtype", "base"}


def _as_adapter_metadata(said: dict[str, Any]) -> dict[str, Any]:
    """As it stands in what adapters were merged into, or in what was made of them."""
    _require_known(said, ADAPTER_KEYS if "base" in said else STACK_KEYS)
    leaves = [
        {"content": one["content"], "meaning": one["meaning"], "weight": str(one.get("weight", "1"))}
        for one in said["adapter"]
    ]
    plain = {"format": said.get("format", ADAPTER_FORMAT), "adapters": leaves}
    onto = {"dtype": said.get("dtype", "keep"), "base": said["base"]["content"]} if "base" in said else {}
    return plain | onto


def _require_known(said: dict[str, Any], keys: frozenset[str]) -> None:
    """What a recipe does not have is an error."""
    unknown = said.keys() - keys
    if unknown:
        raise ValueError(f"unknown key {sorted(unknown)[0]!r}")


def _as_metadata(said: dict[str, Any]) -> dict[str, Any]:
    """As it stands in a merged file: without names."""
    _require_known(said, KEYS)
    if not said.get("input"):
        raise ValueError("it names no inputs ([[input]])")
    plain = {key: value for key, value in said.items() if key not in ("input", *EXTRAS)}
    leaves = [{"content": one["content"], "weight": str(one.get("weight", "1"))} for one in said.get("input", [])]
    return {"format": PLAIN.version, "rule": PLAIN.rule, **plain, "leaves": leaves} | {
        name: said[name]["content"] for name in EXTRAS if name in said
    }
