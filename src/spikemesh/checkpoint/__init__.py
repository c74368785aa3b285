"""Whole checkpoints as files: merge, verify and inspect, out of core, any model, no torch for safetensors."""

from spikemesh.checkpoint.adapters.unmerge import unmerge
from spikemesh.checkpoint.again import merge_again, recipe_of, seen_names
from spikemesh.checkpoint.inspect import InspectReport, TensorReport, inspect
from spikemesh.checkpoint.merge import MergeReport, merge
from spikemesh.checkpoint.opening import open_checkpoint
from spikemesh.checkpoint.options import Choices
from spikemesh.checkpoint.place import check_free
from spikemesh.checkpoint.preview import PlannedTensor, Preview, preview
from spikemesh.checkpoint.recipe import RULES, Leaf, Recipe, read_recipe
from spikemesh.checkpoint.recipe_file import read_recipe_file, to_toml
from spikemesh.checkpoint.source import Checkpoint, Tensor
from spikemesh.checkpoint.verify import IN_METADATA, Difference, VerifyReport, verify
from spikemesh.progress import SILENT, Progress

__all__ = [
    "IN_METADATA",
    "RULES",
    "SILENT",
    "Checkpoint",
    "Choices",
    "Difference",
    "InspectReport",
    "Leaf",
    "MergeReport",
    "PlannedTensor",
    "Preview",
    "Progress",
    "Recipe",
    "Tensor",
    "TensorReport",
    "VerifyReport",
    "check_free",
    "inspect",
    "merge",
    "merge_again",
    "open_checkpoint",
    "preview",
    "read_recipe",
    "read_recipe_file",
    "recipe_of",
    "seen_names",
    "to_toml",
    "unmerge",
    "verify",
]
