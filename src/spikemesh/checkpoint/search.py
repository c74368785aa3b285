"""The files of a recipe, found by what is in them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.naming import KNOWN, is_index, stem_of
from spikemesh.checkpoint.opening import open_checkpoint
from spikemesh.errors import CheckpointError, InvalidData

SHOWN = 3
SUFFIXES = frozenset((".safetensors", ".pt", ".pth", ".bin", ".ckpt"))

Key = tuple[str, ...]
"""What a file is found by: its content hash, and after that of an adapter what its configuration means."""


def search(
    given: Sequence[Path],
    from_folder: Path | None,
    wanted: Collection[Key],
    key_of: Callable[[Path], Key],
    known: KnownFiles,
) -> dict[Key, Path]:
    """Paths of what is `wanted`, of those given before those in a folder and below it. What is not among them must lie
    where this machine saw it last. `CheckpointError` names what is nowhere, or was given and is not wanted.
    """
    found: dict[Key, Path] = {}
    for path in given:
        key = key_of(path)
        _require_wanted(path, key, wanted)
        found.setdefault(key, path)
    for path in () if from_folder is None else _checkpoints_in(from_folder):
        if len(found) == len(wanted):
            break
        try:
            key = key_of(path)
        except (InvalidData, CheckpointError):  # a folder may hold anything
            continue
        if key in wanted:
            found.setdefault(key, path)
    _require_found(wanted, found, known)
    return found


def _require_wanted(path: Path, key: Key, wanted: Collection[Key]) -> None:
    """A file that is named has its part in the result, or there is none."""
    if key in wanted:
        return
    if key[0] in {other[0] for other in wanted}:
        raise CheckpointError(f"{path} has tensors of the recipe, and another adapter_config.json than was merged.")
    raise CheckpointError(f"{path} has no part in the recipe. Leave it out.")


def _require_found(wanted: Collection[Key], found: Mapping[Key, Path], known: KnownFiles) -> None:
    missing = [key[0] for key in sorted(wanted) if key not in found and known.find(key[0]) is None]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of the {len(wanted)} files of the recipe are neither among those given nor where this "
            f"machine saw them last: content {', '.join(missing[:SHOWN])}. Give their paths, or with "
            "--from-folder a folder that they are in."
        )


def _checkpoints_in(folder: Path) -> Iterator[Path]:
    """What may be a checkpoint in a folder and in those below it, folders of shards as a whole."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder. Expected one that holds the checkpoints of the recipe.")
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (path.suffix in SUFFIXES or is_index(path.name)):
            yield _published(path)


def _published(path: Path) -> Path:
    """The folder, if that is a model of which this file holds the weights: then its configuration is found too."""
    if KNOWN.fullmatch(stem_of(path.name)):
        try:
            with closing(open_checkpoint(path.parent)) as whole:
                return whole.path if whole.files[0].path == path else path
        except (InvalidData, CheckpointError):
            pass
    return path
