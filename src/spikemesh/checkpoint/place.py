"""May the result come to its place? What stands there, beside it, and how much room there is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from spikemesh.checkpoint.companions import MAX_ENTRIES, TRAINING, is_companion
from spikemesh.checkpoint.naming import SHARD, SUFFIX, index_name, is_index, require_name, stem_of
from spikemesh.errors import CheckpointError, StoreFull
from spikemesh.files.rim import os_errors

OLD_SUFFIXES = frozenset((".safetensors", ".bin", ".pt", ".pth"))
"""Of the files of weights that a merge may replace."""
OLD_TEXTS = frozenset((".json", ".txt", ".model", ".jinja"))
"""Of the files beside them that it may replace although it brings none of that name."""
SPARE_BYTES = 16 << 20
"""What must stay free beside a result of that size or more; a smaller one wants no more than its own again."""


def check_free(out: Path, *, force: bool, shard_bytes: int | None = None) -> None:
    """`CheckpointError` if the result cannot come to `out`, as far as that can be told beforehand."""
    if out.name in ("", ".."):
        raise CheckpointError(f"{out} is no name for a result. Choose a name for a file or a folder.")
    require_name(out)
    if shard_bytes is not None and is_file_name(out):
        raise CheckpointError(f"{out} is one file; shards go into a folder. Leave out {SUFFIX} or --shard-size.")
    with os_errors("writing", out):
        if not out.parent.is_dir():
            raise CheckpointError(
                f"the folder {out.parent} is not there. Make it, or choose another place for the result."
            )
        if not os.access(out.parent, os.W_OK | os.X_OK):
            raise CheckpointError(f"nothing can be written into {out.parent}. Choose another place for the result.")
        if is_there(out) and not force:
            raise CheckpointError(f"{out} is already there. Choose another name, or replace it with --force.")
        if is_file_name(out):
            _require_alone(out)
    check_replaced(out, None)


def check_replaced(out: Path, brings: Collection[str] | None) -> None:
    """`CheckpointError` if a folder at `out` holds what `--force` may not remove; `brings` are the names of the files
    of the result, None while they are not known yet.

    A slip of the keyboard may name any folder. What makes up a checkpoint may go: weights and the texts beside them;
    of code, sub-folders and the rest only what comes again.
    """
    if not out.is_dir() or out.is_symlink():
        return
    with os_errors("reading", out):
        names = list(islice(_names(out), MAX_ENTRIES))
    strange = [name for name in names if not _may_go(name, brings)]
    if strange or len(names) == MAX_ENTRIES or (names and not any(Path(name).suffix in OLD_SUFFIXES for name in names)):
        raise CheckpointError(
            f"{out} holds other things than a checkpoint, such as {(strange or names)[0]}, which --force would remove. "
            "Choose another name, or remove the folder yourself."
        )


def _names(folder: Path, prefix: str = "") -> Iterator[str]:
    """Everything below a folder, without following links; folders that are empty with a slash."""
    with os.scandir(folder) as entries:
        for entry in sorted(islice(entries, MAX_ENTRIES), key=lambda entry: entry.name):
            if not entry.is_dir():
                yield prefix + entry.name
            elif entry.is_symlink():
                yield prefix + entry.name + "/"
            else:
                inner = _names(Path(entry.path), f"{prefix}{entry.name}/")
                yield next(inner, f"{prefix}{entry.name}/")
                yield from inner


def _may_go(name: str, brings: Collection[str] | None) -> bool:
    last = name.rsplit("/", 1)[-1]
    if brings is None:
        return bool(last) and (is_companion(last) or _is_old(name))
    return name in brings or _is_old(name)


def _is_old(name: str) -> bool:
    if "/" in name or TRAINING.fullmatch(name):
        return False
    return is_index(name) or Path(name).suffix in OLD_SUFFIXES | OLD_TEXTS


def _require_alone(out: Path) -> None:
    """Beside one file of weights, an index or shards of the same name would be taken for the model, or for its rest."""
    stem = stem_of(out.name)
    index = out.with_name(index_name(stem))
    beside = [index.name] if is_there(index) else []
    with os.scandir(out.parent) as entries:
        shards = (entry.name for entry in entries if (shard := SHARD.fullmatch(entry.name)) and shard["stem"] == stem)
        beside += sorted(shards)[:1]
    if beside:
        raise CheckpointError(
            f"{out} would stand beside {' and '.join(beside)}, parts of another checkpoint of that name, and loaders "
            f"would mix them. Remove those, choose another name, or replace all of {out.parent}: -o FOLDER --force."
        )


def is_file_name(out: Path) -> bool:
    return out.suffix == SUFFIX


def is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def check_space(folder: Path, needed_bytes: int) -> None:
    """`StoreFull` if the disk of `folder` has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    spare = min(SPARE_BYTES, needed_bytes)
    if free < needed_bytes + spare:
        raise StoreFull(
            f"the result takes {size(needed_bytes)}, {size(spare)} are to stay free beside it, and the disk of "
            f"{folder} has {size(free)} left. Free some, or write to another disk."
        )


def size(num_bytes: int) -> str:
    """In a unit that fits: 17 bytes, 4.1 kB, 12.3 GB."""
    if num_bytes < 1000:
        return f"{num_bytes} bytes"
    value, units = num_bytes / 1000, ("kB", "MB", "GB", "TB")
    for unit in units:
        if value < 999.95 or unit == units[-1]:
            break
        value /= 1000
    return f"{value:.1f} {unit}"
