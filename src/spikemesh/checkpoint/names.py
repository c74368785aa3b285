"""Names of tensors across checkpoints: patterns, and prefixes that wrappers put before the names of one model.

torch's DataParallel writes `module.w`, torch.compile `_orig_mod.w`, a trainer nests the model under `state_dict`. Where
inputs differ by nothing but that, they are one model: all get the spelling of the plainest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate

from spikemesh.checkpoint.source import Checkpoint, Tensor

HARD = ("module.", "_orig_mod.", "state_dict.", "model_state_dict.", "model_state.")
"""Never part of a model's own names."""
SOFT = ("model.", "net.", "network.")
"""May be a trainer's, or the model's own."""
INSIDE = "_orig_mod."
"""A compiled part of a model has it in the middle of its names."""
MAX_WRAPPERS = 4

HEADS = re.compile(r"(.*\.)?(lm_head|output|embed_out|output_layer)\.weight")
EMBEDDINGS = re.compile(r"(.*\.)?(embed_tokens|wte|tok_embeddings|word_embeddings|embed_in|shared|embedding)\.weight")
"""Tensors with a row for every token: what comes out, and what goes in."""


def matcher(patterns: Iterable[str]) -> re.Pattern[str]:
    """Matches the whole of a name if one of the patterns does; case counts."""
    return re.compile("|".join(map(translate, patterns)) or r"(?!)")


@dataclass(frozen=True)
class Respelling:
    """What was changed in the names of a checkpoint: `old` at their start became `new`."""

    old: str = ""
    new: str = ""

    def __bool__(self) -> bool:
        return self.old != self.new


@dataclass(frozen=True)
class Table:
    """A checkpoint's tensors by the names that the merge knows them by."""

    checkpoint: Checkpoint
    tensors: dict[str, Tensor]
    respelling: Respelling = Respelling()


def as_they_are(checkpoint: Checkpoint) -> Table:
    return Table(checkpoint, dict(checkpoint.tensors))


def aligned(checkpoints: Sequence[Checkpoint]) -> list[Table]:
    """The inputs with the names of the one with the fewest wrappers, where that makes more of them meet."""
    names = [checkpoint.tensors.keys() for checkpoint in checkpoints]
    if all(other == names[0] for other in names[1:]):
        return [as_they_are(checkpoint) for checkpoint in checkpoints]
    plainest = min((c for c in checkpoints if c.tensors), key=_plainness, default=checkpoints[0])
    return [following(checkpoint, plainest.tensors.keys()) for checkpoint in checkpoints]


def following(checkpoint: Checkpoint, known: Collection[str], endings: Sequence[str] = ()) -> Table:
    """A checkpoint with names respelled as in `known`, if more of them are known then. `endings` follow a name."""
    table = as_they_are(checkpoint)
    stems = {name: _without(name, endings) for name in table.tensors}
    cores = {_core(name): name for name in known}
    met = [stem for stem in stems.values() if _core(stem) in cores]
    if not met or sum(stem in known for stem in stems.values()) >= len(met):
        return table
    old = _commonest(map(_wrappers, met))
    new = _commonest(_wrappers(cores[_core(stem)]) for stem in met)
    spelled = {name: _respelled(name, old, new, known) for name in table.tensors}
    better = sum(_without(name, endings) in known for name in spelled.values())
    if len(set(spelled.values())) < len(spelled) or better <= sum(stem in known for stem in stems.values()):
        return table
    tensors = {spelled[name]: tensor for name, tensor in table.tensors.items()}
    return Table(checkpoint, tensors, Respelling(old, new) if old != new else Respelling(INSIDE, ""))


def guess_prefix(one: Iterable[str], other: Iterable[str]) -> str | None:
    """What stands before the names of `one` or `other` and not before those of the other, if anything does."""
    mine, theirs = sorted(one), sorted(other)
    for longer, shorter in ((mine, theirs), (theirs, mine)):
        ends = {name.rpartition(".")[2]: name for name in shorter}
        for name in longer:
            tail = ends.get(name.rpartition(".")[2])
            if tail is not None and tail != name and name.endswith("." + tail):
                return name.removesuffix(tail)
    return None


def _plainness(checkpoint: Checkpoint) -> tuple[int, int, int, str]:
    """Smallest for the checkpoint whose spelling counts; nothing here depends on the order of the inputs."""
    prefix = _commonest(map(_wrappers, checkpoint.tensors))
    containers = tuple(container for container in checkpoint.containers if container in SOFT)
    wrapped = sum(
        any(wrapper in _wrappers(name) for wrapper in HARD) or INSIDE in name or name.startswith(containers)
        for name in checkpoint.tensors
    )
    return wrapped > 0, -len(checkpoint.tensors), len(prefix), min(checkpoint.tensors)


def _commonest(prefixes: Iterable[str]) -> str:
    counts = Counter(prefixes)
    return min(counts, key=lambda prefix: (-counts[prefix], len(prefix), prefix))


def _wrappers(name: str) -> str:
    end = 0
    for _ in range(MAX_WRAPPERS):
        found = next((wrapper for wrapper in (*HARD, *SOFT) if name.startswith(wrapper, end)), "")
        end += len(found)
    return name[:end]


def _core(name: str) -> str:
    return name[len(_wrappers(name)) :].replace(INSIDE, "")


def _respelled(name: str, old: str, new: str, known: Collection[str]) -> str:
    if not name.startswith(old) or (not old and name in known):
        return name
    rest = name[len(old) :]
    whole, plain = new + rest, new + rest.replace(INSIDE, "")
    return whole if whole in known else plain


def _without(name: str, endings: Sequence[str]) -> str:
    return next((name.removesuffix(ending) for ending in endings if name.endswith(ending)), name)
