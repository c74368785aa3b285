"""Whatever a file says that it was made of: checkpoints, a base and adapters, or adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from spikemesh.checkpoint.adapters.recipe import AdapterRecipe, StackRecipe, read_adapter_recipe, read_stack_recipe
from spikemesh.checkpoint.recipe import Recipe, read_recipe

AnyRecipe = Recipe | AdapterRecipe | StackRecipe


def read_any_recipe(metadata: Mapping[str, str], *, path: Path) -> AnyRecipe | None:
    """The recipe in a file's metadata; None if it has none. `InvalidData` if it is damaged."""
    return (
        read_recipe(metadata, path=path)
        or read_adapter_recipe(metadata, path=path)
        or read_stack_recipe(metadata, path=path)
    )
