"""From the paths that a user gives to opened adapters with weights, in the one order that the recipe gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from spikemesh.checkpoint.adapters.adapter import Adapter, is_adapter, open_adapter
from spikemesh.checkpoint.adapters.factors import Weighted
from spikemesh.checkpoint.adapters.recipe import AdapterLeaf, AdapterRecipe, over_one_divisor
from spikemesh.checkpoint.content import CONTENT, sample_hash, tree_hash
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.opening import open_checkpoint
from spikemesh.checkpoint.source import Checkpoint
from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """Opened adapters in the order of their leaves."""

    leaves: Sequence[AdapterLeaf]
    adapters: Sequence[Adapter]
    copies: Mapping[str, str] = field(default_factory=dict)
    """By path: the path of the same adapter that counts for both."""

    @property
    def weighted(self) -> Weighted:
        integers, divisor = over_one_divisor([leaf.weight for leaf in self.leaves])
        return Weighted(adapters=self.adapters, integers=integers, divisor=divisor)

    def require_untouched(self) -> None:
        """`InvalidData` if an adapter has been written to since it was opened: then it is not what was hashed."""
        for adapter in self.adapters:
            if not all(file.is_untouched for file in adapter.checkpoint.files):
                raise InvalidData(f"{adapter.path} has changed while it was read. Try again.")


@dataclass(frozen=True, kw_only=True)
class Library:
    """Opens checkpoints and adapters, knows what they contain, and finds them by content; `stack` closes them.

    `quick` reads no file to the end: what is in it is told by a sample.
    """

    stack: ExitStack
    known: KnownFiles
    progress: Progress
    quick: bool = False

    def open(self, path: Path) -> Checkpoint:
        checkpoint = open_checkpoint(path)
        self.stack.callback(checkpoint.close)
        return checkpoint

    def content(self, checkpoint: Checkpoint) -> str:
        """Its content hash: remembered if its files have not been touched since, else by reading all of it."""
        if self.quick:
            return sample_hash(checkpoint).hex()
        value = self.known.hash_of(checkpoint)
        if value is None:
            value = tree_hash(checkpoint, CONTENT, self.progress)
            self.known.remember(checkpoint, value)
        return value

    def adapter(self, path: Path) -> tuple[Adapter, AdapterLeaf]:
        if not is_adapter(path):
            what = "not an adapter" if path.exists() else "not there"
            raise CheckpointError(f"{path} is {what}: expected an adapter, a folder with adapter_config.json.")
        adapter = open_adapter(path, self.stack)
        return adapter, AdapterLeaf(self.content(adapter.checkpoint), adapter.meaning)

    def gather(self, paths: Sequence[Path], weights: Sequence[Fraction], *, add_up: bool) -> Gathered:
        """All adapters, each once. A copy counts once, or, with `add_up`, its weight is added."""
        leaves: dict[tuple[str, str], AdapterLeaf] = {}
        adapters: dict[tuple[str, str], Adapter] = {}
        copies: dict[str, str] = {}
        for path, weight in zip(paths, weights, strict=True):
            adapter, leaf = self.adapter(path)
            found = leaves.get(leaf.identity)
            total = weight + found.weight if found is not None and add_up else weight
            leaves[leaf.identity] = AdapterLeaf(leaf.content, leaf.meaning, total)
            if found is not None:
                copies[str(path)] = str(adapters[leaf.identity].path)
            adapters.setdefault(leaf.identity, adapter)
        kept = sorted(leaf for leaf in leaves.values() if leaf.weight != 0)
        if not kept:
            raise ValueError("the weights of copies add up to nothing")
        return Gathered(leaves=kept, adapters=[adapters[leaf.identity] for leaf in kept], copies=copies)

    def find_base(self, recipe: AdapterRecipe, given: Path | None) -> Checkpoint:
        """The base of a recipe: the one given, or where this machine saw it last."""
        path = given or self.known.find(recipe.base)
        if path is None:
            raise CheckpointError(
                f"the base of content {recipe.base} is not where this machine saw it last. Give it with --base, or the "
                "remainder of the merge with --remainder."
            )
        base = self.open(path)
        if given is not None and self.content(base) != recipe.base:
            raise CheckpointError(f"{given} is not the base that was merged with: expected content {recipe.base}.")
        return base

    def find(self, leaves: Sequence[AdapterLeaf], given: Sequence[Path] = ()) -> Gathered:
        """The adapters of a recipe, among those given or where this machine saw them last."""
        at_hand = {}
        for path in given:
            adapter, leaf = self.adapter(path)
            if leaf.identity not in {wanted.identity for wanted in leaves}:
                raise CheckpointError(f"{path} was not merged into this file, or with another adapter_config.json.")
            at_hand[leaf.identity] = adapter
        adapters = [at_hand.get(leaf.identity) or self._find(leaf) for leaf in sorted(leaves)]
        return Gathered(leaves=sorted(leaves), adapters=adapters)

    def _find(self, leaf: AdapterLeaf) -> Adapter:
        path = self.known.find(leaf.content)
        if path is None:
            raise CheckpointError(
                f"the adapter of content {leaf.content} is not where this machine saw it last. Give its path; "
                "unmerge also takes the remainder of the merge, with --remainder."
            )
        adapter = open_adapter(path, self.stack)
        if adapter.meaning != leaf.meaning:
            raise InvalidData(f"{path} has the tensors that were merged, and another adapter_config.json than then.")
        return adapter
