"""Training text as bytes: one byte is one token.

What is different here: the split into training and held-out text is by *file* and depends on the file's name alone,
so every volunteer holds out the same files without talking to anyone; and a batch is a pure function of
(seed, step), so a resumed run draws the batches that an uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spikemesh.errors import DataError

Bytes = npt.NDArray[np.uint8]

HELD_OUT_PERCENT = 5
TEXT_SUFFIXES = (".txt", ".py", ".md", ".jsonl")
MAX_FILE_BYTES = 1 << 30
"""One file is read into memory; a larger one should be split by whoever has it."""

_NOT_THE_LIBRARY = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True)
class Document:
    """One file, or one line of a .jsonl: the name decides on which side of the split it falls."""

    name: str
    text: bytes


@dataclass(frozen=True, eq=False)
class Corpus:
    """Documents in name order, split into `train` and `held_out`."""

    train: tuple[Document, ...]
    held_out: tuple[Document, ...]

    @classmethod
    def standard_library(cls) -> Corpus:
        """The text of the running Python's own standard library, without tests and installed packages."""
        root = Path(sysconfig.get_path("stdlib"))
        return cls.of(_read_folder(root, (".py",), _NOT_THE_LIBRARY))

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> Corpus:
        """`path` is a .txt, .py, .md or .jsonl file or a folder of them; None is the standard library.

        Raises `DataError` when there is nothing to read or a line of a .jsonl is not {"text": ...}.
        """
        if path is None:
            return cls.standard_library()
        root = Path(path)
        if root.is_dir():
            return cls.of(_read_folder(root, TEXT_SUFFIXES, frozenset({"__pycache__"})))
        if not root.is_file():
            raise DataError(f"expected training text at {root}, found nothing there; give a file or a folder")
        if root.suffix.lower() not in TEXT_SUFFIXES:
            raise DataError(f"expected one of {', '.join(TEXT_SUFFIXES)}, got {root.name}; convert it to .txt first")
        return cls.of(_read_file(root, root.name))

    @classmethod
    def of(cls, documents: Iterable[Document]) -> Corpus:
        """Split by name. A single document is cut instead: its last 5 % are held out."""
        found = sorted((d for d in documents if d.text), key=lambda d: d.name)
        if not found:
            raise DataError("expected training text, found no non-empty document; check the path and the suffixes")
        if len(found) == 1:
            return cls(*_cut(found[0]))
        held_out = [d for d in found if _name_hash(d.name) % 100 < HELD_OUT_PERCENT]
        if not held_out:
            held_out = [min(found, key=lambda d: _name_hash(d.name))]
        chosen = {d.name for d in held_out}
        return cls(tuple(d for d in found if d.name not in chosen), tuple(held_out))

    def shard(self, index: int, num_shards: int) -> Bytes:
        """The training text of volunteer `index` of `num_shards`: whole documents, balanced by size.

        Fewer documents than shards are cut into equal pieces instead.
        """
        if not 0 <= index < num_shards:
            raise ValueError(f"a shard index is 0..{num_shards - 1}, got {index}")
        if len(self.train) < num_shards:
            text = _joined(self.train)
            bounds = np.linspace(0, len(text), num_shards + 1).astype(np.int64)
            return text[bounds[index] : bounds[index + 1]]
        return _joined(_deal(self.train, num_shards)[index])

    @property
    def train_text(self) -> Bytes:
        return _joined(self.train)

    @property
    def held_out_text(self) -> Bytes:
        return _joined(self.held_out)


def batch(text: Bytes, *, seed: int, step: int, batch_size: int, num_tokens: int) -> npt.NDArray[np.int64]:
    """`batch_size` windows of `num_tokens` + 1 bytes at places drawn from (seed, step): [B, L + 1]."""
    _require_window(text, num_tokens)
    rng = np.random.default_rng([seed, step])
    starts = rng.integers(0, len(text) - num_tokens, size=batch_size)
    windows: npt.NDArray[np.int64] = text[starts[:, None] + np.arange(num_tokens + 1)].astype(np.int64)
    return windows


def spread_windows(text: Bytes, *, num_windows: int, num_tokens: int) -> npt.NDArray[np.int64]:
    """`num_windows` windows of `num_tokens` bytes spread evenly over training text: [B, L]. Nothing is drawn."""
    _require_window(text, num_tokens)
    starts = np.arange(num_windows) * (len(text) - num_tokens) // num_windows
    windows: npt.NDArray[np.int64] = text[starts[:, None] + np.arange(num_tokens)].astype(np.int64)
    return windows


def _require_window(text: Bytes, num_tokens: int) -> None:
    if len(text) <= num_tokens + 1:
        raise DataError(
            f"expected more than {num_tokens + 1} bytes of training text per volunteer, got {len(text)}; "
            "give more text, fewer volunteers or a shorter context"
        )


def held_out_windows(text: Bytes, *, num_bytes: int, num_tokens: int) -> npt.NDArray[np.int64]:
    """Windows of `num_tokens` + 1 bytes spread evenly over the held-out text, about `num_bytes` in all: [W, L + 1]."""
    if len(text) < 2:
        raise DataError(f"expected at least 2 bytes of held-out text, got {len(text)}; give more text")
    length = min(num_tokens, len(text) - 1)
    num_windows = max(1, min(num_bytes, len(text) - 1) // length)
    starts = np.linspace(0, len(text) - length - 1, num_windows).astype(np.int64)
    windows: npt.NDArray[np.int64] = text[starts[:, None] + np.arange(length + 1)].astype(np.int64)
    return windows


def _name_hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _cut(document: Document) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    at = len(document.text) * (100 - HELD_OUT_PERCENT) // 100
    if at == 0:
        raise DataError(f"expected a longer text than {len(document.text)} bytes in {document.name}; give more text")
    head, tail = document.text[:at], document.text[at:]
    return (Document(document.name, head),), (Document(document.name, tail),)


def _deal(documents: Iterable[Document], num_shards: int) -> list[list[Document]]:
    """Largest first, each to the shard that holds least so far; ties by name, so everybody deals alike."""
    shards: list[list[Document]] = [[] for _ in range(num_shards)]
    sizes = [0] * num_shards
    for document in sorted(documents, key=lambda d: (-len(d.text), d.name)):
        smallest = sizes.index(min(sizes))
        shards[smallest].append(document)
        sizes[smallest] += len(document.text)
    return [sorted(shard, key=lambda d: d.name) for shard in shards]


def _joined(documents: Iterable[Document]) -> Bytes:
    return np.frombuffer(b"".join(d.text for d in documents), np.uint8)


def _read_folder(root: Path, suffixes: tuple[str, ...], skipped: frozenset[str]) -> Iterator[Document]:
    if not root.is_dir():
        raise DataError(f"expected a folder of text at {root}, found none; give a file or a folder with --data")
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in skipped and not name.startswith("."))
        for file in sorted(files):
            path = Path(folder, file)
            if path.suffix.lower() in suffixes and not path.is_symlink():
                yield from _read_file(path, path.relative_to(root).as_posix())


def _read_file(path: Path, name: str) -> Iterator[Document]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"expected at most {MAX_FILE_BYTES} bytes per file, {path} has more; split it")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"expected to read {path}: {error.strerror}; check its permissions") from error
    if path.suffix.lower() != ".jsonl":
        yield Document(name, data)
        return
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip():
            yield Document(f"{name}#{number}", _text_field(line, path, number))


def _text_field(line: bytes, path: Path, number: int) -> bytes:
    wanted = f'expected {{"text": "..."}} in line {number} of {path}'
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{wanted}, got something that is not JSON; every line holds one JSON object") from error
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise DataError(f'{wanted}, got no string field "text"; rename the field that holds the text')
    return text.encode("utf-8", "replace")
