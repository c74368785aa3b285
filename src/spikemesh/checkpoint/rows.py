"""Rows of embeddings and heads brought together by the tokens that they stand for, read where they lie.

The result has the rows of one vocabulary, the reference: the base's, else of the inputs' the one with the smallest
hash, which depends on no order. In a union those of all others follow. A row that a checkpoint does not have takes no
part. Rows beyond a tokenizer (padding) stand for nothing: those that have the reference's vocabulary keep them by
place, the others leave theirs out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spikemesh.checkpoint.companions import Companion
from spikemesh.checkpoint.names import EMBEDDINGS, HEADS, Table
from spikemesh.checkpoint.source import Tensor
from spikemesh.checkpoint.vocabulary import Vocabulary, extended
from spikemesh.checkpoint.windows import Stretch
from spikemesh.errors import CheckpointError

Rows = npt.NDArray[np.int64]
"""By row of the result: the row of a checkpoint, `NONE` if it has none."""
NONE = -1


@dataclass(frozen=True, kw_only=True)
class MatchedTensor(Tensor):
    """A tensor's rows in the result's order, zeros where it has none. What is hashed is the tensor in the file."""

    held: npt.NDArray[np.bool_] = field(compare=False, repr=False)
    """By row."""


@dataclass(frozen=True)
class Run:
    """Elements of a stretch, in rows that the same sources have."""

    stretch: Stretch
    holders: tuple[int, ...]
    """Numbers among the sources, in their order."""
    has_base: bool


@dataclass(frozen=True, kw_only=True)
class MatchedRows:
    """What became of rows that stand for tokens."""

    tokenizer: Path
    """Whose tokens come first, or alone."""
    tensors: tuple[str, ...]
    num_rows: int
    num_tokens: int
    """The other rows are padding, and kept where the vocabulary is this one."""
    added: tuple[str, ...]
    """Tokens of others that follow them, in a union."""
    without_row: Mapping[str, tuple[str, ...]]
    """By path: tokens that the result does not have."""


@dataclass(frozen=True, kw_only=True)
class Matching:
    """The vocabularies of a merge, one per input."""

    whose: str = "base"
    """One of `recipe.VOCABS`."""
    inputs: Sequence[Vocabulary]
    base: Vocabulary | None = None

    @cached_property
    def tokens(self) -> Mapping[str, int]:
        """Of the result: new ones follow by their strings, whatever the order of the inputs."""
        own = self.reference.tokens
        new = sorted({token for v in self.inputs for token in v.tokens} - own.keys()) if self.whose == "union" else []
        return {**own, **{token: number for number, token in enumerate(new, self.reference.num_ids)}}

    @cached_property
    def reference(self) -> Vocabulary:
        return self.base or min(self.inputs, key=lambda vocabulary: (vocabulary.digest, str(vocabulary.path)))

    def require_alike(self) -> None:
        """`CheckpointError` if the strings of one mean bytes and those of another do not."""
        everything = [*self.inputs, self.reference]
        if self.whose == "union" and (self.reference.splitting is None or len({v.splitting for v in everything}) > 1):
            self._refuse_union(everything)
        known = {v.is_byte_level: v for v in everything if v.is_byte_level is not None}
        if len(known) > 1:
            raise CheckpointError(
                f"the tokens of {known[True].path} are written as bytes and those of {known[False].path} are not, so "
                "the same string does not mean the same. Merge models of one kind of tokenizer."
            )

    def tokenizer(self, beside: Mapping[str, Companion]) -> Mapping[str, bytes]:
        """Texts of the result's tokenizer, where they are not those `beside` it that come from the reference."""
        new = {token: number for token, number in self.tokens.items() if token not in self.reference.tokens}
        return extended(beside, new, self.inputs)

    @property
    def has_new(self) -> bool:
        """The result has tokens that the reference has not."""
        return len(self.tokens) > len(self.reference.tokens)

    def _refuse_union(self, everything: Sequence[Vocabulary]) -> None:
        other = next((v for v in everything if v.splitting != self.reference.splitting), self.reference)
        raise CheckpointError(
            f"a union needs one tokenizer, and {other.path} splits text in another way than {self.reference.path} "
            "(only the same model with other added tokens adds up). Take the vocabulary of one: --vocab base."
        )

    def matched(
        self, tables: Sequence[Table], base: Table | None, skips: Callable[[str], bool]
    ) -> tuple[list[Table], Table | None, MatchedRows]:
        """The tables with embeddings and heads as the result has them, and what is to be said of it; `skips` is true of
        names that are left out. `CheckpointError` if there are none.
        """
        pairs = list(zip(tables, self.inputs, strict=True))
        if base is not None and self.base is not None:
            pairs.append((base, self.base))
        names = {name for table, vocabulary in pairs for name in _of_vocabulary(table, vocabulary, skips)}
        if not names:
            raise CheckpointError("none of the tensors is an embedding or a head, so --vocab has nothing to match.")
        num_rows = self._num_rows(pairs, names)
        found = [self._matched(table, vocabulary, names, num_rows) for table, vocabulary in pairs]
        said = MatchedRows(
            tokenizer=self.reference.path,
            tensors=tuple(sorted(names)),
            num_rows=num_rows,
            num_tokens=len(self.tokens),
            added=tuple(token for token in self.tokens if token not in self.reference.tokens),
            without_row={
                str(table.checkpoint.path): tuple(sorted(left))
                for table, vocabulary in pairs
                if (left := vocabulary.tokens.keys() - self.tokens.keys())
            },
        )
        return found[: len(tables)], found[-1] if len(found) > len(tables) else base, said

    def tokens_of(self, rows: npt.NDArray[np.bool_]) -> list[str]:
        """Those that these rows of the result stand for."""
        return [token for token, number in self.tokens.items() if rows[number]] if rows.any() else []

    def _num_rows(self, pairs: Sequence[tuple[Table, Vocabulary]], names: set[str]) -> int:
        """As many as the reference has, with its padding."""
        sizes = [
            table.tensors[name].shape[0]
            for table, vocabulary in pairs
            for name in names & table.tensors.keys()
            if vocabulary is self.base or (self.base is None and vocabulary.digest == self.reference.digest)
        ]
        return max(*sizes, *(number + 1 for number in self.tokens.values()))

    def _matched(self, table: Table, vocabulary: Vocabulary, names: set[str], num_rows: int) -> Table:
        tensors = dict(table.tensors)
        for name in names & table.tensors.keys():
            _require_rows(table, vocabulary, tensors[name])
            tensors[name] = _in_order(tensors[name], self._rows(vocabulary, tensors[name].shape[0], num_rows))
        return replace(table, tensors=tensors)

    def _rows(self, vocabulary: Vocabulary, height: int, num_rows: int) -> Rows:
        rows = np.full(num_rows, NONE, np.int64)
        if vocabulary.digest == self.reference.digest:
            rows[: min(height, num_rows)] = np.arange(min(height, num_rows))
            rows[self.reference.num_ids :][: len(self.tokens) - len(self.reference.tokens)] = NONE  # others' tokens
            return rows
        for token, number in self.tokens.items():
            rows[number] = vocabulary.tokens.get(token, NONE)
        return rows


def _of_vocabulary(table: Table, vocabulary: Vocabulary, skips: Callable[[str], bool]) -> Iterator[str]:
    """Names of the tensors with a row for each token. An `output.weight` may be anything, an embedding may not."""
    for name, tensor in table.tensors.items():
        weight = name.removesuffix(".bias") + ".weight" if name.endswith(".bias") else name
        if tensor.element.kind != "float" or not tensor.shape or skips(name):
            continue
        is_large = tensor.shape[0] >= vocabulary.num_ids
        if EMBEDDINGS.fullmatch(name) or (is_large and HEADS.fullmatch(weight)):
            _require_rows(table, vocabulary, tensor)
            yield name


def _require_rows(table: Table, vocabulary: Vocabulary, tensor: Tensor) -> None:
    if tensor.element.kind != "float" or not tensor.shape or tensor.shape[0] < vocabulary.num_ids:
        raise CheckpointError(
            f"{tensor.name[:200]!r} in {table.checkpoint.path} is {tensor.describe()}, and {vocabulary.path} has ids "
            f"up to {vocabulary.num_ids - 1}: it is not that model's tokenizer."
        )


def _in_order(tensor: Tensor, rows: Rows) -> Tensor:
    if len(rows) == tensor.shape[0] and np.array_equal(rows, np.arange(len(rows))):
        return tensor
    width = tensor.size_bytes // tensor.shape[0] if tensor.shape[0] else 0
    return MatchedTensor(
        name=tensor.name,
        element=tensor.element,
        shape=(len(rows), *tensor.shape[1:]),
        read=partial(_read, tensor, rows, width),
        held=rows != NONE,
    )


def _read(tensor: Tensor, rows: Rows, width: int, start: int, out: memoryview) -> None:
    """Rows that follow each other in the file with one call."""
    end = start + len(out)
    first, last = start // width, -(-end // width)
    chosen = rows[first:last]
    follows = np.where(chosen[:-1] == NONE, chosen[1:] == NONE, chosen[1:] == chosen[:-1] + 1)
    bounds = [0, *(np.flatnonzero(~follows) + 1).tolist(), last - first]
    for begin, stop in pairwise(bounds):
        low, high = max(start, (first + begin) * width), min(end, (first + stop) * width)
        part = out[low - start : high - start]
        if chosen[begin] == NONE:
            part[:] = bytes(len(part))
        else:
            tensor.read(int(chosen[begin]) * width + low - (first + begin) * width, part)


@dataclass(frozen=True)
class Holders:
    """Who has which row of one tensor of the result."""

    sources: Sequence[npt.NDArray[np.bool_]]
    base: npt.NDArray[np.bool_] | None
    row_elements: int

    def runs(self, stretch: Stretch) -> Iterator[Run]:
        """A stretch, cut where other rows begin that other sources have."""
        first, end = stretch.start // self.row_elements, stretch.start + stretch.count
        last = -(-end // self.row_elements)
        flags = np.array([held[first:last] for held in (*self.sources, *self._beside)])
        bounds = [0, *(np.flatnonzero((flags[:, 1:] != flags[:, :-1]).any(axis=0)) + 1).tolist(), last - first]
        for begin, stop in pairwise(bounds):
            low = max(stretch.start, (first + begin) * self.row_elements)
            high = min(end, (first + stop) * self.row_elements)
            here = flags[: len(self.sources), begin]
            holders = tuple(np.flatnonzero(here).tolist())
            yield Run(Stretch(low, high - low), holders, bool(self.base is not None and flags[-1, begin]))

    @property
    def _beside(self) -> Sequence[npt.NDArray[np.bool_]]:
        return () if self.base is None else (self.base,)

    @property
    def nowhere(self) -> npt.NDArray[np.bool_]:
        """Rows that nobody has."""
        somewhere: npt.NDArray[np.bool_] = np.logical_or.reduce([*self.sources, *self._beside])
        return ~somewhere


def holders_of(sources: Sequence[Tensor], base: Tensor | None) -> Holders | None:
    """None if all have all rows, as everywhere but in matched tensors."""
    beside = [] if base is None else [base]
    if not any(isinstance(tensor, MatchedTensor) and not tensor.held.all() for tensor in (*sources, *beside)):
        return None
    first = sources[0] if sources else beside[0]
    return Holders(
        [_held(tensor) for tensor in sources],
        None if base is None else _held(base),
        first.num_elements // first.shape[0],
    )


def _held(tensor: Tensor) -> npt.NDArray[np.bool_]:
    return tensor.held if isinstance(tensor, MatchedTensor) else np.ones(tensor.shape[0], np.bool_)
