"""LoRA adapters, exactly: merged into a base, with each other, and out again, bit for bit."""

from spikemesh.checkpoint.adapters.adapter import is_adapter
from spikemesh.checkpoint.adapters.again import merge_adapters_again, stack_adapters_again
from spikemesh.checkpoint.adapters.merge import AdapterReport, merge_adapters
from spikemesh.checkpoint.adapters.preview import AdapterPreview, StackPreview, preview_adapters, preview_stack
from spikemesh.checkpoint.adapters.recipe import AdapterLeaf, AdapterRecipe, StackRecipe, read_adapter_recipe
from spikemesh.checkpoint.adapters.stack import StackReport, stack_adapters
from spikemesh.checkpoint.adapters.unmerge import unmerge

__all__ = [
    "AdapterLeaf",
    "AdapterPreview",
    "AdapterRecipe",
    "AdapterReport",
    "StackPreview",
    "StackRecipe",
    "StackReport",
    "is_adapter",
    "merge_adapters",
    "merge_adapters_again",
    "preview_adapters",
    "preview_stack",
    "read_adapter_recipe",
    "stack_adapters",
    "stack_adapters_again",
    "unmerge",
]
