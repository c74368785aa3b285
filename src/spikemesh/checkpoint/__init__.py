"""Whole checkpoints as files: merge, verify and inspect, out of core, any model, no torch for safetensors."""

from spikemesh.checkpoint.inspect import InspectReport, TensorReport, inspect
from spikemesh.checkpoint.merge import MergeReport, merge
from spikemesh.checkpoint.opening import open_checkpoint
from spikemesh.checkpoint.place import check_free
from spikemesh.checkpoint.recipe import RULES, Leaf, Recipe, read_recipe
from spikemesh.checkpoint.source import Checkpoint, Tensor
from spikemesh.checkpoint.verify import IN_METADATA, Difference, VerifyReport, verify
from spikemesh.progress import SILENT, Progress

__all__ = [
    "IN_METADATA",
    "RULES",
    "SILENT",
    "Checkpoint",
    "Difference",
    "InspectReport",
    "Leaf",
    "MergeReport",
    "Progress",
    "Recipe",
    "Tensor",
    "TensorReport",
    "VerifyReport",
    "check_free",
    "inspect",
    "merge",
    "open_checkpoint",
    "read_recipe",
    "verify",
]
