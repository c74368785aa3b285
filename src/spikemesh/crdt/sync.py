"""Keeping two nodes' record sets equal: *make the next message*, *take a message*, over a state per peer.

Nothing here touches a network; whoever owns one carries the messages. Both sides silent = nothing more to say.

    A                                   B
    digests, question      ------->     differ, so A must know what B has
                           <-------     digests, table (per author: coverage and hash of its records)
    records B lacks, table ------->     takes them, knows what A has
                           <-------     records A lacks
    (silent)                            (silent)

When the peer's table is known, new records go out at once, without a question. An author whose coverage is equal and
whose hash differs has equivocated; its records are sent again, which is how both proofs reach everybody.

A record goes out once: that the peer's table does not show it yet may only mean that its delta is still being fetched.
What got lost is repaired by starting over: a node may do so at any time, and its question tells the peer to forget what
was said before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgspec

from spikemesh.crdt.context import CausalContext
from spikemesh.crdt.orset import RecordSet
from spikemesh.crdt.records import PastEntry, Record
from spikemesh.crdt.replica import Replica

MAX_RECORDS_BYTES = 512 * 1024
"""Records in one message stay below this; the rest follow in the next one."""

EMPTY_DIGEST = RecordSet().digest


class LogSummary(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a node has of one author: which sequence numbers, and the hash of those records' ids in order."""

    coverage: PastEntry
    digest: bytes


QUESTION: tuple[LogSummary, ...] = ()


class SyncMessage(msgspec.Struct, frozen=True, kw_only=True, tag="sync", forbid_unknown_fields=True):
    """`table` is None when it is not needed; `records` are signed record bytes.

    An empty table is a question: the sender starts over, tell it your table and take nothing for said. (Of a node that
    holds no records it is the table, too.)
    """

    set_digest: bytes
    sum_digest: bytes
    table: tuple[LogSummary, ...] | None = None
    records: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class SyncState:
    """What this node believes of one peer. A fresh one is always safe: it only costs a longer exchange."""

    their_digest: bytes | None = None
    their_table: dict[bytes, LogSummary] | None = None
    told_digest: bytes | None = None
    told_table: bytes | None = None
    asked: bool = False
    sent: frozenset[bytes] = frozenset()


def next_message(replica: Replica, state: SyncState) -> tuple[SyncState, SyncMessage | None]:
    """The message this peer should get now, or None when there is nothing to say."""
    records, digest = replica.records, replica.records.digest
    outgoing = tuple(_bounded(_lacking(records, state)))
    starting = not state.asked and (state.told_digest is None or state.their_digest is None)
    tell = not starting and state.their_digest not in (None, digest) and state.told_table != digest
    if not outgoing and not tell and state.told_digest == digest:
        return state, None
    message = SyncMessage(
        set_digest=digest,
        sum_digest=replica.sum.digest,
        table=QUESTION if starting else summarise(records) if tell else None,
        records=tuple(record.wire for record in outgoing),
    )
    state = replace(
        state,
        told_digest=digest,
        told_table=digest if tell else state.told_table,
        sent=state.sent | {record.id for record in outgoing},
    )
    return state, message


def receive(state: SyncState, message: SyncMessage) -> SyncState:
    """The state after this message. Its records are the caller's to verify and to insert."""
    state = replace(state, their_digest=message.set_digest)
    if message.table == QUESTION:
        state = replace(state, asked=True, told_digest=None, told_table=None, sent=frozenset())
    if message.table or message.set_digest == EMPTY_DIGEST:
        state = replace(state, their_table={summary.coverage.author: summary for summary in message.table or ()})
    return state


def summarise(records: RecordSet) -> tuple[LogSummary, ...]:
    """The table of a record set, authors in byte order."""
    return tuple(LogSummary(entry, records.log_digest(entry.author)) for entry in records.context.entries())


def _lacking(records: RecordSet, state: SyncState) -> Iterator[Record]:
    """Records that the peer, as far as its table tells, does not hold, and that were not sent since."""
    if state.their_table is None or state.their_digest == records.digest:
        return
    theirs = CausalContext.from_entries(s.coverage for s in state.their_table.values())
    mine = {entry.author: entry for entry in records.context.entries()}
    for author, log in records.logs.items():
        summary = state.their_table.get(author)
        if summary is not None and summary.digest == records.log_digest(author):
            continue
        contested = summary is not None and summary.coverage == mine[author]
        for seq, held in log.items():
            for record in held:
                new = contested or len(held) > 1 or (author, seq) not in theirs
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
