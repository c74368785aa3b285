"""Which token each row of an embedding stands for, as the tokenizer beside a checkpoint says.

Two models whose tokenizers differ have rows that mean different things at one place; the tokens' own strings say which
rows belong together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from spikemesh.checkpoint.companions import Companion
from spikemesh.checkpoint.source import Checkpoint
from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.files.rim import os_errors

TOKENIZER, VOCABULARY, ADDED = "tokenizer.json", "vocab.json", "added_tokens.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPLITTING = ("normalizer", "pre_tokenizer", "model", "decoder")
MAX_BYTES = 128 << 20
MAX_ID = 1 << 24


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of one tokenizer by their own strings."""

    path: Path
    tokens: Mapping[str, int]
    """Ids, each once."""
    is_byte_level: bool | None = None
    """Strings stand for bytes, as GPT-2 writes them; None if that is not said."""

    splitting: str | None = None
    """A hash of how text is split, apart from added tokens; None if that is not said."""
    added: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What is said of added tokens."""

    @property
    def num_ids(self) -> int:
        """Rows that an embedding needs for it."""
        return max(self.tokens.values(), default=-1) + 1

    @cached_property
    def digest(self) -> str:
        """The same for two tokenizers that give the same strings the same ids."""
        return blake3(msgspec.json.encode(sorted(self.tokens.items()))).hexdigest()

    def is_like(self, other: Vocabulary) -> bool:
        """Text becomes the same ids."""
        return (self.digest, self.splitting) == (other.digest, other.splitting)


def vocabulary_of(copies: Sequence[Checkpoint]) -> Vocabulary:
    """What stands beside one of these copies. `CheckpointError` if nothing does, or they differ."""
    found = {v.digest: v for copy in copies for v in _beside(copy)}
    if not found:
        raise CheckpointError(
            f"there is no {TOKENIZER} or {VOCABULARY} beside {copies[0].path}, and --vocab matches rows by the strings "
            "of tokens. Put its tokenizer there."
        )
    if len(found) > 1:
        first, second = sorted(str(vocabulary.path) for vocabulary in found.values())[:2]
        raise CheckpointError(f"{first} and {second} stand beside the same tensors and differ. Leave one copy out.")
    return next(iter(found.values()))


def _beside(checkpoint: Checkpoint) -> Iterator[Vocabulary]:
    if checkpoint.files:  # else it lies in memory
        found = read_vocabulary(checkpoint.files[0].path.parent)
        if found is not None:
            yield found


def extended(
    beside: Mapping[str, Companion], new: Mapping[str, int], others: Sequence[Vocabulary]
) -> Mapping[str, bytes]:
    """The tokenizer `beside` a result with the tokens `new`, as the other of the smallest hash that has them says them.

    By name, what is another text than before. `CheckpointError` if there is no such tokenizer.
    """
    texts = {
        name: _decoded(beside[name].path, beside[name].read())
        for name in (TOKENIZER, TOKENIZER_CONFIG, ADDED)
        if name in beside and beside[name].size_bytes <= MAX_BYTES
    }
    if TOKENIZER not in texts:
        raise CheckpointError(f"a union writes a {TOKENIZER}, and there is none to take along. Use --vocab base.")
    entries = _entries(new, others, dict(_tokens(texts[TOKENIZER]["model"])))
    texts[TOKENIZER]["added_tokens"] = [*(texts[TOKENIZER].get("added_tokens") or ()), *entries]
    decoder = texts.get(TOKENIZER_CONFIG, {}).get("added_tokens_decoder")
    if isinstance(decoder, dict):
        decoder.update({str(one["id"]): {key: one[key] for key in one if key != "id"} for one in entries})
    texts.get(ADDED, {}).update(new)
    return {name: msgspec.json.format(msgspec.json.encode(text), indent=2) for name, text in texts.items()}


def _entries(
    new: Mapping[str, int], others: Sequence[Vocabulary], model: Mapping[str, int]
) -> Sequence[Mapping[str, Any]]:
    said: dict[str, Mapping[str, Any]] = {}
    for other in sorted(others, key=lambda other: other.digest, reverse=True):
        said.update(other.added)
    replaced = next((token for token in new if token in model or token not in said), None)
    if replaced is not None:
        raise CheckpointError(
            f"one tokenizer has an added token in the place of {replaced[:50]!r}, which another still has, so no union "
            "has both. Take the vocabulary of one: --vocab base."
        )
    return [{**said[token], "id": number} for token, number in new.items()]


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """The tokens of the tokenizer in a folder; None if there is none that says them. `InvalidData` if it is damaged."""
    path = folder / TOKENIZER
    said = _read(path)
    try:
        if said is not None:
            return Vocabulary(
                path,
                _checked(_tokens(said["model"]), _added(said)),
                is_byte_level=_is_byte_level(said),
                splitting=blake3(msgspec.json.encode([said.get(name) for name in SPLITTING])).hexdigest(),
                added={one["content"]: one for one in said.get("added_tokens") or ()},
            )
        path = folder / VOCABULARY
        said = _read(path)
        if said is not None:
            return Vocabulary(path, _checked(said.items(), (_read(folder / ADDED) or {}).items()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidData(f"{path} is no vocabulary of a tokenizer: {error!r:.200}") from error
    return None


def _read(path: Path) -> dict[str, Any] | None:
    with os_errors("reading", path):
        if not path.is_file():
            return None
        if path.stat().st_size > MAX_BYTES:
            raise InvalidData(f"{path}: expected a tokenizer of at most {MAX_BYTES >> 20} MB.")
        data = path.read_bytes()
    return _decoded(path, data)


def _decoded(path: Path, data: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidData(f"{path} is no vocabulary of a tokenizer: {error!s:.200}") from error


def _tokens(model: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    """Of a model by words, of one by pieces with scores."""
    vocab = model["vocab"]
    return vocab.items() if isinstance(vocab, dict) else [(entry[0], number) for number, entry in enumerate(vocab)]


def _added(said: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    return [(one["content"], one["id"]) for one in said.get("added_tokens") or ()]


def _is_byte_level(said: Mapping[str, Any]) -> bool:
    return b'"ByteLevel"' in msgspec.json.encode([said.get("pre_tokenizer"), said.get("decoder")])


def _checked(model: Iterable[tuple[str, int]], added: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Every string has one id and every id one string. An added token may have taken the place of another."""
    tokens = _each_once(model)
    ids = {number: token for token, number in tokens.items()}
    for token, number in _each_once(added).items():
        if tokens.get(token, number) != number:
            raise ValueError(f"the token {token[:100]!r} has the ids {tokens[token]} and {number}")
        tokens.pop(ids.get(number, token), None)
        tokens[token] = number
    if not tokens:
        raise ValueError("it has no tokens")
    return tokens


def _each_once(items: Iterable[tuple[str, int]]) -> dict[str, int]:
    tokens: dict[str, int] = {}
    for token, number in items:
        if not isinstance(token, str) or type(number) is not int or not 0 <= number < MAX_ID:
            raise ValueError(f"expected a token and its id, got {token!r:.100} and {number!r:.100}")
        if tokens.setdefault(token, number) != number:
            raise ValueError(f"the token {token[:100]!r} has the ids {tokens[token]} and {number}")
    if len(set(tokens.values())) < len(tokens):
        raise ValueError(f"two of {len(tokens)} tokens have the same id")
    return tokens
