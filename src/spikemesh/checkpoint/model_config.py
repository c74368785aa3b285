"""What `config.json` says of the tensors, made to agree with them.

Loaders believe it: transformers rounds float32 weights to the bfloat16 of an old `dtype`, and ties a head that was
merged by itself to the embedding. Only those words are changed; every other byte of the file stays.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from spikemesh.checkpoint.companions import Companion
from spikemesh.checkpoint.source import TensorInfo

NAME = "config.json"
MAX_BYTES = 4 << 20
"""A configuration is a few kilobytes; a larger file stays as it is."""
DTYPES = {"F64": b"float64", "F32": b"float32", "F16": b"float16", "BF16": b"bfloat16"}
DTYPE = re.compile(rb'("(?:torch_)?dtype"\s*:\s*"(?:torch\.)?)(float64|float32|float16|bfloat16)(")')
TIED = re.compile(rb'("tie_word_embeddings"\s*:\s*)(true|false)\b')
VOCAB_SIZE = re.compile(rb'("vocab_size"\s*:\s*)([0-9]+)\b')
HEAD = re.compile(r"(.*\.)?lm_head\.weight", re.DOTALL)
EMBEDDING = re.compile(r"(.*\.)?(embed_tokens|wte|embed_in|word_embeddings|shared)\.weight", re.DOTALL)


@dataclass(frozen=True)
class Change:
    """A word of a configuration that would have been wrong."""

    key: str
    before: str
    after: str


def read_config(files: Mapping[str, Companion]) -> bytes | None:
    """The configuration among the files beside a checkpoint; None if there is none, or none that is JSON."""
    file = files.get(NAME)
    if file is None or file.size_bytes > MAX_BYTES:
        return None
    text = file.read()
    try:
        return text if isinstance(json.loads(text), dict) else None
    except (ValueError, RecursionError):
        return None


def agree(
    text: bytes,
    tensors: Sequence[TensorInfo],
    are_same: Callable[[str, str], bool],
    others: Iterable[bytes | None] = (),
    num_rows: int | None = None,
) -> tuple[bytes, tuple[Change, ...]]:
    """`text` as it is for a result of `tensors`, and what was changed.

    A type that no tensor has becomes the one of most bytes. Whether head and embedding are tied is what all `others`,
    the inputs' configurations, say alike; and no if the result has both and `are_same` says that they differ.
    `num_rows` is the length of a vocabulary that was matched.
    """
    changes: dict[Change, None] = {}

    def change(key: str, match: re.Match[bytes], after: bytes) -> bytes:
        if match[2] != after:
            changes[Change(key, match[2].decode(), after.decode())] = None
        return match[1] + after + b"".join(match.groups()[2:])

    sizes: Counter[bytes] = Counter()
    for tensor in tensors:
        if tensor.element.name in DTYPES:
            sizes[DTYPES[tensor.element.name]] += max(1, tensor.size_bytes)
    if sizes:
        most = min(sizes, key=lambda name: (-sizes[name], name))
        text = DTYPE.sub(lambda m: change("dtype", m, m[2] if m[2] in sizes else most), text)
    tied = _tied([tensor.name for tensor in tensors], are_same, others)
    if tied is not None:
        text = TIED.sub(lambda m: change("tie_word_embeddings", m, tied), text)
    if num_rows is not None and len({match[2] for match in VOCAB_SIZE.finditer(text)}) == 1:
        text = VOCAB_SIZE.sub(lambda m: change("vocab_size", m, str(num_rows).encode()), text)
    return text, tuple(changes)


def _tied(names: Sequence[str], are_same: Callable[[str, str], bool], others: Iterable[bytes | None]) -> bytes | None:
    """What a configuration has to say; None if that cannot be told."""
    heads = [name for name in names if HEAD.fullmatch(name)]
    embeddings = [name for name in names if EMBEDDING.fullmatch(name)]
    if heads and embeddings and not any(are_same(head, other) for head in heads for other in embeddings):
        return b"false"
    said = {match[2] for text in others if text is not None for match in TIED.finditer(text)}
    return said.pop() if len(said) == 1 else None
