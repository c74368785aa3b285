"""What a merge says of the files beside the weights: where they come from, and what was left behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spikemesh.cli.names import shown, some

if TYPE_CHECKING:
    from spikemesh.checkpoint.companions import Carried, Companions
    from spikemesh.checkpoint.model_config import Change


def carried_facts(carried: Carried | None, changes: Sequence[Change] = ()) -> dict[str, object]:
    """For programs."""
    assert carried is not None, "a file or a folder was written"
    return {
        "companions": {
            "from": None if carried.source is None else carried.source.folder,
            "files": sorted(carried.files),
            "changed": changes,
            "left": {str(folder): names for folder, names in carried.left.items()},
        },
        "differing_companions": carried.differing,
    }


def print_carried(carried: Carried | None, changes: Sequence[Change] = ()) -> None:
    """For people."""
    assert carried is not None, "a file or a folder was written"
    if carried.source is not None and carried.files:
        print(f"Configuration and tokenizer are of {shown(carried.source.folder)}: {some(sorted(carried.files))}.")
    for change in changes:
        print(f"In its config.json, {change.key} was {change.before} and is {change.after}, as the tensors are.")
    if carried.differing:
        print(f"Another input has these differently: {some(carried.differing)}.")
    for (why, names), folders in _alike(carried.left).items():
        print(f"Left behind in {some(folders)}: {some(names)} ({shown(why)}).")


def folder_facts(source: Companions | None) -> dict[str, object] | None:
    """For programs, of a result that can only have the files of one folder."""
    if source is None:
        return None
    return {"from": source.folder, "files": sorted(source.files), "left": source.left}


def print_folder(source: Companions | None) -> None:
    """The same for people."""
    if source is None:
        return
    if source.files:
        print(f"Configuration and tokenizer are of {shown(source.folder)}: {some(sorted(source.files))}.")
    for (why, names), folders in _alike({source.folder: source.left}).items():
        print(f"Left behind in {some(folders)}: {some(names)} ({shown(why)}).")


def _alike(left: Mapping[Path, Mapping[str, str]]) -> dict[tuple[str, tuple[str, ...]], list[str]]:
    """Reasons, with the names that have it in one folder, and the folders where these are the same names."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for folder, names in left.items():
        for why in dict.fromkeys(names.values()):
            alike = tuple(name for name in names if names[name] == why)
            found.setdefault((why, alike), []).append(str(folder))
    return found
