"""Keeping two nodes' record sets equal: *make the next message*, *take a message*, over a state per peer.

Nothing here touches a network; whoever owns one carries the messages. Both sides silent = nothing more to say.

Comparing everything, at a cost that grows with the difference and with the logarithm of the number of authors:

    A                                   B
    digests, "compare"     ------->     differ, so A must know what B has
                           <-------     its outline: a branch with 16 digests of parts of the authors' ids
    outlines of the parts  ------->     and so on, until a part has few authors: then a row for each of them
    that differ
                           <-------     rows where the two differ
    records B lacks, rows  ------->     takes them, knows what A has of these authors
                           <-------     records A lacks
    (silent)                            (silent)

Spreading news, at a cost that does not depend on the number of authors:

    digests, "news", rows  ------->     lacks some of it
                           <-------     its own rows of these authors
    records B lacks        ------->

When the peer's row is known, new records go out at once, without a question. An author whose coverage is equal and
whose hash differs has equivocated; its records are sent again, which is how both proofs reach everybody.

A record goes out once: that the peer's row does not show it yet may only mean that its delta is still being fetched.
What got lost is repaired by starting over: a node may do so at any time, and says so, which tells the peer to forget
what was said before.

The outline is a Merkle tree over the authors' ids, computed when it is needed; Merkle 1987, and Demers et al. 1987 for
the two ways of spreading.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

import msgspec

from spikemesh.crdt.orset import RecordSet
from spikemesh.crdt.records import PastEntry, Record
from spikemesh.crdt.replica import Replica

MAX_RECORDS_BYTES = 512 * 1024
"""Records in one message stay below this; the rest follow in the next one."""

LEAF_AUTHORS = 32
"""A part with at most so many authors is told row by row."""

MAX_ROWS = 4096
MAX_BRANCHES = 256
"""Of one message. Rows beyond that follow in the next one, branches in the next comparison."""

HEX_DIGITS = "0123456789abcdef"
EMPTY_DIGEST = RecordSet().digest


class LogSummary(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A row: which sequence numbers a node has of one author, and the hash of those records' ids in order."""

    coverage: PastEntry
    digest: bytes


class Branch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a node has of the authors whose ids begin with the hex digits `prefix`, by their next digit."""

    prefix: str
    digests: tuple[bytes, ...]


class SyncMessage(msgspec.Struct, frozen=True, kw_only=True, tag="sync", forbid_unknown_fields=True):
    """`records` are signed record bytes.

    `start`: the sender starts over, take nothing for said. "compare" asks for the receiver's outline, "news" does not.
    `table` has rows; of the authors whose ids begin with one of the hex strings in `complete` there are no other rows.
    """

    set_digest: bytes
    sum_digest: bytes
    start: Literal["compare", "news"] | None = None
    table: tuple[LogSummary, ...] = ()
    complete: tuple[str, ...] = ()
    branches: tuple[Branch, ...] = ()
    records: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class SyncState:
    """What this node believes of one peer. A fresh one is always safe: it only costs a longer exchange."""

    their_digest: bytes | None = None
    rows: Mapping[bytes, LogSummary] = field(default_factory=dict)
    complete: frozenset[str] = frozenset()
    branches: tuple[Branch, ...] = ()
    told_digest: bytes | None = None
    told: Mapping[bytes, bytes | None] = field(default_factory=dict)
    """The digest of each row as the peer was told it."""
    outlined: bytes | None = None
    """The digest of the own records at which the peer was told their outline."""
    answering: bool = False
    """The peer started over, so that it need not be told to."""
    narrow: bool = False
    """This is about news, and nothing else is compared."""
    sent: frozenset[bytes] = frozenset()


def next_message(
    replica: Replica, state: SyncState, news: Collection[bytes] = ()
) -> tuple[SyncState, SyncMessage | None]:
    """The message this peer should get now, or None when there is nothing to say.

    With `news`, authors of new records, an exchange starts with what is known of these and compares nothing else.
    """
    records, digest = replica.records, replica.records.digest
    outgoing = tuple(_bounded(_lacking(records, state)))
    starting = not state.answering and (state.told_digest is None or state.their_digest is None)
    told = _Told(records)
    if state.their_digest != digest:
        if not starting:
            for prefix in islice(_differing(records, state.branches), MAX_BRANCHES):
                told.outline(prefix)
        for author in islice(_worth_telling(records, state, news, starting), MAX_ROWS):
            told.row(author)
        if not (starting or state.narrow or told or outgoing or state.outlined == digest):
            told.outline("")
            state = replace(state, outlined=digest)
    if not outgoing and not told and state.told_digest == digest:
        return state, None
    message = SyncMessage(
        set_digest=digest,
        sum_digest=replica.sum.digest,
        start=None if not starting else "news" if news else "compare",
        table=tuple(told.rows[author] for author in sorted(told.rows)),
        complete=tuple(told.complete),
        branches=tuple(told.branches),
        records=tuple(record.wire for record in outgoing),
    )
    state = replace(
        state,
        branches=(),
        narrow=state.narrow or (starting and bool(news)),
        told_digest=digest,
        told={**state.told, **told.digests},
        sent=state.sent | {record.id for record in outgoing},
    )
    return state, message


def receive(state: SyncState, message: SyncMessage) -> SyncState:
    """The state after this message. Its records are the caller's to verify and to insert."""
    if message.start is not None:
        state = SyncState(answering=True, narrow=message.start == "news")
    complete, rows = state.complete.union(message.complete), dict(state.rows)
    if message.set_digest == EMPTY_DIGEST:
        complete, rows = frozenset(("",)), {}
    elif message.complete:
        rows = {author: row for author, row in rows.items() if not author.hex().startswith(message.complete)}
    rows.update((row.coverage.author, row) for row in message.table)
    return replace(
        state, their_digest=message.set_digest, rows=rows, complete=complete, branches=message.branches[:MAX_BRANCHES]
    )


class _Told:
    """What a message tells of the own records."""

    def __init__(self, records: RecordSet) -> None:
        self._records = records
        self.rows: dict[bytes, LogSummary] = {}
        self.complete: list[str] = []
        self.branches: list[Branch] = []
        self.digests: dict[bytes, bytes | None] = {}

    def __bool__(self) -> bool:
        return bool(self.rows or self.complete or self.branches)

    def outline(self, prefix: str) -> None:
        """Rows for all authors of this part, or, when they are many, a branch."""
        authors = self._records.authors(prefix)
        if len(authors) <= LEAF_AUTHORS:
            self.complete.append(prefix)
            for author in authors:
                self.row(author)
        else:
            self.branches.append(Branch(prefix, tuple(map(self._records.part_digest, _children(prefix)))))

    def row(self, author: bytes) -> None:
        if author in self._records.logs:
            digest = self._records.log_digest(author)
            self.rows[author] = LogSummary(self._records.coverage(author), digest)
            self.digests[author] = digest
        else:
            self.complete.append(author.hex())
            self.digests[author] = None


def _children(prefix: str) -> Iterator[str]:
    return (prefix + digit for digit in HEX_DIGITS)


def _differing(records: RecordSet, branches: Iterable[Branch]) -> Iterator[str]:
    """The parts below the peer's branches that are not what this node has."""
    for branch in branches:
        for prefix, digest in zip(_children(branch.prefix), branch.digests, strict=False):
            if records.part_digest(prefix) != digest:
                yield prefix


def _worth_telling(records: RecordSet, state: SyncState, news: Collection[bytes], starting: bool) -> Iterator[bytes]:
    """Authors of whom the peer has other records, and was not told what this node has."""
    for author in dict.fromkeys((*news, *(() if starting else state.rows))):
        mine = records.log_digest(author) if author in records.logs else None
        theirs = state.rows.get(author)
        if (theirs is None or theirs.digest != mine) and state.told.get(author, b"") != mine:
            yield author


def _lacking(records: RecordSet, state: SyncState) -> Iterator[Record]:
    """Records that the peer, as far as its rows tell, does not hold, and that were not sent since."""
    if state.their_digest in (None, records.digest):
        return
    parts = (author for prefix in sorted(state.complete) for author in records.authors(prefix))
    for author in dict.fromkeys((*state.rows, *parts)):
        row = state.rows.get(author)
        if author not in records.logs or (row is not None and row.digest == records.log_digest(author)):
            continue
        contested = row is not None and row.coverage == records.coverage(author)
        for seq, held in records.logs[author].items():
            for record in held:
                new = contested or len(held) > 1 or row is None or not row.coverage.covers(seq)
                if new and record.id not in state.sent:
                    yield record


def _bounded(records: Iterator[Record]) -> Iterator[Record]:
    total = 0
    for record in records:
        if len(record.wire) > MAX_RECORDS_BYTES:
            continue  # no codec accepts it, and it must not stand in the way of the others
        total += len(record.wire)
        if total > MAX_RECORDS_BYTES:
            return
        yield record
