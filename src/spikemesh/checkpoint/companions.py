"""What stands beside a checkpoint's weights, and what of it a result takes along.

Configuration, tokenizer, chat templates, remote code and licences of a result come from one checkpoint, so that they
fit each other: the base, else the input of the largest weight, of several the one whose files have the smallest hash.
That depends on the set of inputs alone. What does not come along is named, with the reason.

A folder may be prepared by somebody who wants a private file to be published with the result, or a disk to be filled:
only regular files count, of kinds that loaders read; links only to files inside the folder, or in the blobs of the
Hugging Face cache that it lies in; and no more than `MAX_FILES`, `MAX_FILE_BYTES` and `MAX_BYTES`.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import islice
from pathlib import Path

from blake3 import blake3

from spikemesh.checkpoint.naming import INDEX, WEIGHT_SUFFIXES
from spikemesh.checkpoint.source import Checkpoint
from spikemesh.errors import InvalidData
from spikemesh.files.rim import os_errors

MAX_FILES = 1000
MAX_FILE_BYTES = 128 << 20
MAX_BYTES = 512 << 20
MAX_ENTRIES = 10_000
"""How many names of a folder are looked at."""
MAX_DEPTH = 3
COPY_BYTES = 1 << 20

SUFFIXES = frozenset(
    ".json .txt .model .jinja .jinja2 .py .tiktoken .vocab .bpe .spm .codes .dict .yaml .yml".split()  # noqa: SIM905
)
NAMES = re.compile(r"(licen[cs]e|notice|copying|use_policy)([._-].*)?|.*\.model\.v[0-9a-z]+", re.IGNORECASE)
"""Licences, and tokenizers such as `tokenizer.model.v3`."""
MARK = re.compile(r".*config.*\.json|params\.json")
"""Without one of these a folder is no published model, and its texts are somebody's notes."""
README = re.compile(r"(readme|model_?card)(\..*)?", re.IGNORECASE)
TRAINING = re.compile(
    r"trainer_state\.json|training_args\..*|(.*_)?results\.json|optimizer\..*|scheduler\.pt|rng_state.*"
)
RECORDS = frozenset(("runs", "wandb", "logs", "mlruns", "tensorboard", "lightning_logs", "__pycache__"))

WEIGHTS = "weights, and not those that were merged"
OWN_WEIGHTS = "weights of its own: merge that folder by itself"
STATE = "of its training, not of the model"
DESCRIPTION = "describes that model, not the result"
HIDDEN = "hidden"
UNKNOWN = "no kind of file that loaders read"
NOTHING = "nothing in it that loaders read"
NO_MODEL = "no configuration beside it says that this is a published model"
STRANGE = "neither a file nor a folder"
LINK_OUT = "a link that leads out of the folder"
LINK_NOWHERE = "a link that leads nowhere"
LINK_FOLDER = "a link to a folder"
LARGE = f"larger than {MAX_FILE_BYTES >> 20} MB"
TOO_MUCH = f"more than {MAX_FILES} files or {MAX_BYTES >> 20} MB"
DEEP = f"deeper than {MAX_DEPTH} folders"
CLOSED = "cannot be read"
REST = f"not looked at: more than {MAX_ENTRIES} names"
ONE_FILE = "the result is one file"


@dataclass(frozen=True)
class Companion:
    """One regular file, by the path that any link to it leads to, and its size when it was seen."""

    path: Path
    size_bytes: int

    def pieces(self) -> Iterator[bytes]:
        """Its bytes. `InvalidData` if it is another file by now, which may be a link, or endless."""
        with os_errors("reading", self.path):
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                seen = os.fstat(fd)
                if not stat.S_ISREG(seen.st_mode) or seen.st_size != self.size_bytes:
                    raise InvalidData(f"{self.path} has changed while it was read. Try again.")
                left = self.size_bytes
                while left and (piece := os.read(fd, min(left, COPY_BYTES))):
                    left -= len(piece)
                    yield piece
            finally:
                os.close(fd)

    def read(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces())

    def __eq__(self, other: object) -> bool:
        """Whether both have the same bytes."""
        return isinstance(other, Companion) and self.size_bytes == other.size_bytes and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def digest(self) -> bytes:
        """Hash of its bytes."""
        collected = blake3()
        for piece in self.pieces():
            collected.update(piece)
        return collected.digest()


@dataclass(frozen=True)
class Companions:
    """What stands beside the weights in `folder`, by names below it: what can be carried along, what not, and why."""

    folder: Path
    files: Mapping[str, Companion] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def digest(self) -> bytes:
        """Hash of all names and bytes that can be carried along."""
        table = [[os.fsencode(name).hex(), self.files[name].digest.hex()] for name in sorted(self.files)]
        return blake3(json.dumps(table).encode()).digest()

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())


@dataclass(frozen=True, kw_only=True)
class Carried:
    """What of all that stood beside the inputs is in the result."""

    source: Companions | None = None
    """Where it comes from: one checkpoint."""
    inputs: tuple[Companions, ...] = ()
    """What stands beside each input that was given as a folder."""
    differing: tuple[str, ...] = ()
    """Names of files in the result that another input has differently."""
    left: Mapping[Path, Mapping[str, str]] = field(default_factory=dict)
    """By input: names below its folder that are not in the result at all, and why."""

    @property
    def files(self) -> Mapping[str, Companion]:
        return {} if self.source is None else self.source.files

    @property
    def size_bytes(self) -> int:
        return 0 if self.source is None else self.source.size_bytes


def choose(
    candidates: Sequence[tuple[Fraction, Companions]], *, first: Companions | None = None, one_file: bool = False
) -> Carried:
    """What a result takes along of inputs with weights; of `first` before all, if that has anything.

    Nothing if the result is `one_file`: then everything is left, and named.
    """
    having = [(-weight, seen.digest, os.fsencode(seen.folder), seen) for weight, seen in candidates if seen.files]
    source = None
    if not one_file:
        source = first if first is not None and first.files else min(having, key=lambda c: c[:3])[3] if having else None
    everything = [*([] if first is None else [first]), *(seen for _, seen in candidates)]
    files = {} if source is None else source.files
    differing = {
        name for other in everything for name, file in other.files.items() if name in files and file != files[name]
    }
    left = {other.folder: _left(other, source, one_file) for other in everything}
    return Carried(
        source=source,
        inputs=tuple(seen for _, seen in candidates),
        differing=tuple(sorted(differing)),
        left={folder: names for folder, names in left.items() if names},
    )


def _left(other: Companions, source: Companions | None, one_file: bool) -> dict[str, str]:
    files = {} if source is None else source.files
    why = ONE_FILE if one_file or source is None else f"not in {source.folder}"
    return dict(sorted({**other.left, **{name: why for name in other.files if name not in files}}.items()))


def is_companion(name: str) -> bool:
    """Whether loaders read files of this name, beside weights."""
    return not name.startswith(".") and _why_not(name) is None


def _why_not(name: str) -> str | None:
    """Why a file of this name is not carried along; None if it is."""
    if name.startswith("."):
        return HIDDEN
    if TRAINING.fullmatch(name):
        return STATE
    if is_weights(name):
        return WEIGHTS
    if README.fullmatch(name):
        return DESCRIPTION
    return None if Path(name).suffix in SUFFIXES or NAMES.fullmatch(name) else UNKNOWN


def is_weights(name: str) -> bool:
    return Path(name).suffix in WEIGHT_SUFFIXES or INDEX.fullmatch(name) is not None


def beside(checkpoint: Checkpoint) -> Companions | None:
    """What stands beside a checkpoint that was given as a folder. Beside a file may stand anything of its owner's."""
    if not checkpoint.path.is_dir():
        return None
    return survey(checkpoint.path, [file.path.name for file in checkpoint.files])


def survey(folder: Path, merged: Collection[str] = ()) -> Companions:
    """Look through a checkpoint's folder; `merged` are the names of its weights and their index."""
    walk = _Walk(folder)
    found = walk.look(walk.root, "", frozenset(merged))
    files, left = found.files, found.left
    if not any(MARK.fullmatch(name) for name in files):
        files, left = {}, {**left, **dict.fromkeys(files, NO_MODEL)}
    kept: dict[str, Companion] = {}
    size = 0
    for name in sorted(files, key=lambda name: (name.count("/"), name)):  # what lies deeper pushes nothing else out
        if len(kept) >= MAX_FILES or size + files[name].size_bytes > MAX_BYTES:
            left[name] = TOO_MUCH
            continue
        kept[name] = files[name]
        size += files[name].size_bytes
    return Companions(folder, kept, left)


@dataclass
class _Found:
    files: dict[str, Companion] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    has_weights: bool = False


class _Walk:
    def __init__(self, folder: Path) -> None:
        with os_errors("reading", folder):
            self.root = folder.resolve(strict=True)
        self._roots = [self.root, *_blobs(self.root)]
        self._num_left = MAX_ENTRIES

    def look(self, folder: Path, prefix: str, merged: Collection[str] = ()) -> _Found:
        """Everything in `folder`, which is `prefix` below the root."""
        found = _Found()
        with os_errors("reading", folder), os.scandir(folder) as entries:
            some = list(islice(entries, self._num_left + 1))
        if len(some) > self._num_left:
            found.left[prefix + "..."] = REST
        seen = sorted(some[: self._num_left], key=lambda entry: entry.name)
        self._num_left -= len(seen)
        for entry in seen:
            if entry.name not in merged:
                self._take(entry, prefix + entry.name, found)
        return found

    def _take(self, entry: os.DirEntry[str], name: str, found: _Found) -> None:
        if entry.is_dir(follow_symlinks=False):
            self._take_folder(entry, name, found)
            return
        why = _why_not(entry.name)
        found.has_weights |= is_weights(entry.name)
        target = Path(entry.path)
        if why is None and entry.is_symlink():
            target, why = self._follow(target)
        if why is None:
            seen = target.lstat()
            if not stat.S_ISREG(seen.st_mode):
                why = STRANGE
            elif seen.st_size > MAX_FILE_BYTES:
                why = LARGE
            else:
                found.files[name] = Companion(target, seen.st_size)
                return
        found.left[name] = why or UNKNOWN

    def _follow(self, link: Path) -> tuple[Path, str | None]:
        """Where a link leads, and why that is not good enough."""
        try:
            target = link.resolve(strict=True)
        except (OSError, RuntimeError):
            return link, LINK_NOWHERE
        inside = next((target.relative_to(root) for root in self._roots if target.is_relative_to(root)), None)
        if inside is None:
            return target, LINK_OUT
        if any(part.startswith(".") for part in inside.parts):  # such as .git/config, with somebody's token
            return target, HIDDEN
        return target, LINK_FOLDER if target.is_dir() else None

    def _take_folder(self, entry: os.DirEntry[str], name: str, found: _Found) -> None:
        why = HIDDEN if entry.name.startswith(".") else STATE if entry.name in RECORDS else None
        if why is None and name.count("/") >= MAX_DEPTH:
            why = DEEP
        if why is None:
            try:
                inner = self.look(Path(entry.path), name + "/")
            except PermissionError:
                inner, why = _Found(), CLOSED
            found.has_weights |= inner.has_weights
            why = why or (OWN_WEIGHTS if inner.has_weights else None if inner.files else NOTHING)
            if why is None:
                found.files |= inner.files
                found.left |= inner.left
                return
        found.left[name + "/"] = why


def _blobs(root: Path) -> list[Path]:
    """Where the files of a snapshot in the Hugging Face cache lie: `models--*/snapshots/*` links to `models--*/blobs`.

    As a name under the root's real path: what is a link itself leads out of the cache.
    """
    return [
        folder.parent / "blobs"
        for folder in root.parents
        if folder.name == "snapshots" and folder.parent.name.startswith("models--")
    ][:1]
