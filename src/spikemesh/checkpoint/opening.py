"""`open_checkpoint`: whatever path a user has, told apart by what is in it rather than by its name."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec

from spikemesh.checkpoint.naming import SHARD, STEMS, index_name, index_rank, is_index, single_names, stem_of
from spikemesh.checkpoint.safetensors_file import open_safetensors
from spikemesh.checkpoint.source import Checkpoint, SeenFile, Tensor
from spikemesh.checkpoint.torch_file import open_legacy_torch, open_torch
from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.files.rim import os_errors

MAX_INDEX_BYTES = 64 << 20
WEIGHTS, OTHER_WEIGHTS = single_names(STEMS[:2]), single_names(STEMS[2:])
"""Of the one file of weights in a folder, best first: those that come before an index, and those after one."""
ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""What torch before 1.6 wrote in front of its pickles."""
OTHER_FILES: tuple[tuple[tuple[bytes, ...], str], ...] = (
    (
        (b"version https://git-lfs.github.com",),
        "a git-lfs pointer and not the file that it stands for. Fetch that: git lfs pull.",
    ),
    ((b"<!doctype html", b"<html", b"<?xml"), "a web page and not a checkpoint. Download the file behind its link."),
    (
        (b"gguf", b"ggml", b"ggjt"),
        "a GGUF file, whose weights are quantised in blocks. Merge the original checkpoints, and convert the result.",
    ),
    ((b"\x89hdf",), "an HDF5 file. Write its weights as safetensors."),
    ((b"\x1f\x8b", b"7z\xbc\xaf", b"rar!", b"bzh", b"\xfd7zxz"), "a packed archive. Unpack it."),
)
PICKLE_PROTOCOLS = (b"\2", b"\3", b"\4", b"\5")
"""What follows the byte 0x80 in a binary pickle."""


class Index(msgspec.Struct):
    """`model.safetensors.index.json` of a sharded checkpoint: which file has which tensor."""

    weight_map: dict[str, str]


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a safetensors or PyTorch file, the index of a sharded one, or a folder with any of these.

    `CheckpointError` if nothing there can be a checkpoint, `InvalidData` if its bytes are damaged or hostile.
    """
    with os_errors("opening", path):
        is_folder, is_there = path.is_dir(), path.exists()
    if is_folder:
        return _open_folder(path)
    if not is_there:
        raise CheckpointError(f"{path} is not there. Expected a checkpoint file or a folder that holds one.")
    if is_index(path.name):
        return _open_shards(path)
    return _open_file(path)


def _open_file(path: Path) -> Checkpoint:
    _require_file(path)
    with os_errors("reading", path), path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise InvalidData(f"{path} is empty: 0 bytes. Download or copy it again.")
    if start.startswith(ZIP_MAGIC):
        return open_torch(path)
    if start.startswith(LEGACY_MAGIC):
        return open_legacy_torch(path)
    if _is_pickle(start):
        raise InvalidData(
            f"{path} is a bare pickle, which can run code when it is read. Load it where you trust it and save it "
            "again with torch.save (any version since 1.6) or as safetensors."
        )
    _refuse_others(path, start)
    return open_safetensors(path)


def _refuse_others(path: Path, start: bytes) -> None:
    """Files that people have in the place of a checkpoint, by how they begin."""
    text = start.lstrip().lower()
    for beginnings, what in OTHER_FILES:
        if text.startswith(beginnings):
            raise InvalidData(f"{path} is {what}")


def _require_file(path: Path) -> None:
    """A pipe would be waited for, and a device never ends."""
    if not path.is_file():
        raise CheckpointError(f"{path} is neither a file nor a folder. Copy what it gives into a file.")


def _is_pickle(start: bytes) -> bool:
    """The length of a safetensors header may look like a pickle's first bytes; a brace follows it."""
    return start[:1] == b"\x80" and start[1:2] in PICKLE_PROTOCOLS and start[8:9] != b"{"


def _open_folder(folder: Path) -> Checkpoint:
    with os_errors("reading", folder):
        names = {path.name for path in folder.iterdir() if path.is_file()}
    single = next((folder / name for name in WEIGHTS if name in names), None)
    indexes = sorted(filter(is_index, names), key=index_rank)
    if single is None and not indexes:
        single = next((folder / name for name in OTHER_WEIGHTS if name in names), None) or _only_file(folder, names)
    opened = _open_file(single) if single is not None else _open_shards(folder / indexes[0])
    return replace(opened, path=folder)


def _only_file(folder: Path, names: Collection[str]) -> Path:
    files = [name for name in sorted(names) if name.endswith(".safetensors")]
    if files and all(map(SHARD.fullmatch, files)):
        raise CheckpointError(
            f"{folder} has shards, such as {files[0]}, and no index that says what is in which. Download "
            f"{index_name(stem_of(files[0]))} too."
        )
    if len(files) != 1:
        found = ", ".join(files[:5]) or "no .safetensors file"
        raise CheckpointError(
            f"{folder}: expected {WEIGHTS[0]}, an index of shards (*.index.json) or one .safetensors file, found "
            f"{found}. Name the file itself."
        )
    return folder / files[0]


def _open_shards(index_path: Path) -> Checkpoint:
    _require_file(index_path)
    seen = SeenFile.see(index_path)
    if seen.size > MAX_INDEX_BYTES:
        raise InvalidData(f"{index_path}: expected an index of at most {MAX_INDEX_BYTES >> 20} MB.")
    with os_errors("reading", index_path):
        text = index_path.read_bytes()
    try:
        weight_map = msgspec.json.decode(text, type=Index).weight_map
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidData(f"{index_path} is not the index of a sharded checkpoint ({error!s:.200}).") from error
    folder, resources = index_path.parent, ExitStack()
    shards: dict[str, Checkpoint] = {}
    try:
        for name in sorted(set(weight_map.values())):
            shards[name] = _open_shard(index_path, folder, name)
            resources.callback(shards[name].close)
        tensors = {name: _find(index_path, shards[file], name) for name, file in sorted(weight_map.items())}
    except BaseException:
        resources.close()
        raise
    listed = {(file, name) for name, file in weight_map.items()}
    extra = [
        f"{file}: {name}" for file, shard in shards.items() for name in shard.tensors if (file, name) not in listed
    ]
    return Checkpoint(
        path=index_path,
        tensors=tensors,
        metadata=next((shard.metadata for shard in shards.values()), {}),
        left_out=tuple(sorted(extra)),
        files=(seen, *(file for shard in shards.values() for file in shard.files)),
        resources=resources,
    )


def _open_shard(index_path: Path, folder: Path, name: str) -> Checkpoint:
    if Path(name).name != name or name in ("", ".", ".."):
        raise InvalidData(f"{index_path}: expected names of files beside it, got {name[:200]!r}.")
    with os_errors("opening", folder / name):
        is_there = (folder / name).exists()
    if not is_there:
        raise CheckpointError(f"{index_path} names {name}, which is not beside it. Download the missing shard.")
    return _open_file(folder / name)


def _find(index_path: Path, shard: Checkpoint, name: str) -> Tensor:
    if name not in shard.tensors:
        raise InvalidData(f"{index_path} says that {shard.path.name} holds {name[:200]!r}, and it does not.")
    return shard.tensors[name]
