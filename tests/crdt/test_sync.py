"""The exchange of two nodes: it ends, it is bounded, silence means equality, and nothing is said twice for nothing."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Sequence

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from spikemesh.crdt import LogSummary, PastEntry, Record, SyncMessage, SyncState, next_message, receive
from spikemesh.crdt.sync import LEAF_AUTHORS, MAX_RECORDS_BYTES
from tests.crdt import laws
from tests.crdt.exchange import Node, Transcript, make_nodes, talk, wires_of
from tests.crdt.strategies import AUTHORS, Universe, contribution, delta_hash, knowing, universes
from tests.crdt.test_orders import build_universe

FEW = 10
"""Messages of one exchange whose records all fit in one: both sides' digest, table, records, and the digests after."""

VALUES = {delta_hash({0: 1}): {0: 1}, delta_hash({1: 2}): {1: 2}}


def history(author: bytes, seqs: Sequence[int], *, payload: int = 0, wire_bytes: int = 0) -> list[Record]:
    """Contributions of one author; other `payload`, other records under the same numbers."""
    name = sorted(VALUES)[payload]
    return [contribution(author, seq, 1, name, signature=bytes(wire_bytes)) for seq in seqs]


def universe_of(*parts: Sequence[Record]) -> Universe:
    return Universe(97, frozenset(), tuple(dict.fromkeys(itertools.chain(*parts))), VALUES)


def assert_equal(*nodes: Node) -> None:
    for node in nodes:
        laws.assert_sum(node.universe, node.replica)
        assert node.digests == nodes[0].digests
        assert not node.waiting


def assert_silent(a: Node, b: Node) -> None:
    assert a.speak(1) is None
    assert b.speak(0) is None


@given(st.data())
def test_exchange_ends_in_equality_and_silence(data: st.DataObject) -> None:
    universe = data.draw(universes())
    known = data.draw(knowing(universe, 2))
    a, b = make_nodes(universe, *known)
    wires = wires_of(*known)
    transcript = talk(a, b, wires, max_messages=FEW)
    assert_equal(a, b)
    assert_silent(a, b)
    laws.assert_stands_for(universe, a.replica, *(universe.record_set(records) for records in known))
    cheats = {group[0].author for group in a.replica.records.equivocations}
    for speaker in (0, 1):
        said = transcript.records_by(speaker)
        assert len(said) == len(set(said)), "a record went out twice in one quiet exchange"
        own = {record.wire for record in known[speaker]}
        assert {wires[wire].author for wire in set(said) - own} <= cheats, "what was just heard was said back"


@given(st.data())
def test_exchange_of_equals_is_two_digests(data: st.DataObject) -> None:
    universe = data.draw(universes())
    a, b = make_nodes(universe, universe.records, universe.records[::-1])
    transcript = talk(a, b, {})
    assert len(transcript.said) == 2
    assert all(not message.table and not message.records for _, message in transcript.said)
    assert_silent(a, b)


@given(st.data())
def test_news_after_an_exchange_need_no_question(data: st.DataObject) -> None:
    """Once the tables are known, the first message already carries the news, and nothing that was there before."""
    universe = data.draw(universes())
    known = data.draw(knowing(universe, 2))
    news = history(AUTHORS[1], [90, 91])
    universe = dataclasses.replace(universe, values={**universe.values, **VALUES})
    a, b = make_nodes(universe, *known)
    wires = wires_of(universe.records, news)
    first = talk(a, b, wires)
    proofs = {record.wire for group in a.replica.records.equivocations for record in group}
    a.replica = a.replica.insert(news, universe.delta)
    transcript = talk(a, b, wires, max_messages=FEW)
    assert_equal(a, b)
    expected = {record.wire for record in news}
    if any(message.table for speaker, message in first.said if speaker == 1):
        assert set(transcript.said[0][1].records) - proofs == expected
    assert set(transcript.records_by(0)) - proofs == expected
    assert set(transcript.records_by(1)) <= proofs


def test_messages_are_bounded() -> None:
    """A long history goes out in parts of at most the bound each, every record once, and both ends are reached."""
    mine, theirs = (
        history(AUTHORS[0], range(1, 1200), wire_bytes=4000),
        history(AUTHORS[1], range(1, 300), wire_bytes=4000),
    )
    a, b = make_nodes(universe_of(mine, theirs), mine, theirs)
    transcript = talk(a, b, wires_of(mine, theirs), max_messages=40)
    assert_equal(a, b)
    assert sorted(transcript.records_by(0)) == sorted(record.wire for record in mine)
    assert sorted(transcript.records_by(1)) == sorted(record.wire for record in theirs)
    largest = max(sum(map(len, message.records)) for _, message in transcript.said)
    assert MAX_RECORDS_BYTES - 5_000 < largest <= MAX_RECORDS_BYTES


def test_oversized_record_does_not_dam_up_the_others() -> None:
    """No valid record is that long; were there one, the rest must still get through and the exchange still end."""
    huge = history(AUTHORS[0], [1], wire_bytes=MAX_RECORDS_BYTES + 1)
    rest = [*history(AUTHORS[0], range(2, 9)), *history(AUTHORS[2], range(1, 4))]
    a, b = make_nodes(universe_of(huge, rest), [*huge, *rest], [])
    talk(a, b, wires_of(huge, rest), max_messages=FEW)
    assert {record.id for record in b.replica.records} == {record.id for record in rest}


@pytest.mark.parametrize("fold_each", [0, 1, 3])
def test_records_that_are_not_folded_yet_are_not_sent_again(fold_each: int) -> None:
    """The receiver answers before it has fetched the deltas: its digest and table are still the old ones."""
    mine, theirs = history(AUTHORS[0], range(1, 20)), history(AUTHORS[1], range(1, 4))
    a, b = make_nodes(universe_of(mine, theirs), [*mine, *theirs], theirs)
    wires = wires_of(mine, theirs)

    def slowly(node: Node) -> None:
        node.fold(fold_each)

    transcript = talk(a, b, wires, before_speaking=slowly, max_messages=100)
    b.fold()
    assert sorted(transcript.records_by(0)) == sorted(record.wire for record in mine)
    transcript = talk(b, a, wires, numbers=(1, 0))
    assert transcript.records_by(0) == transcript.records_by(1) == []
    assert_equal(a, b)


def test_peer_that_never_folds_does_not_keep_us_talking() -> None:
    """It refuses what we hold, or cannot get the deltas: we say it once, and stop."""
    mine = history(AUTHORS[0], range(1, 20))
    a, b = make_nodes(universe_of(mine), mine, [])
    transcript = talk(a, b, wires_of(mine), before_speaking=lambda node: None, max_messages=FEW)
    assert len(transcript.records_by(0)) == len(mine)
    assert_silent(a, b)
    b.waiting.clear()
    b.forget(0)
    talk(b, a, wires_of(mine), numbers=(1, 0))
    assert_equal(a, b)


# An equivocator's records.


@pytest.mark.parametrize("others", [0, 5])
def test_proof_reaches_both(others: int) -> None:
    """Both know the author's numbers to the last one, and not the same records: the coverage alone shows nothing."""
    common = history(AUTHORS[0], range(1, 1 + others))
    one, two = history(AUTHORS[0], [9], payload=0), history(AUTHORS[0], [9], payload=1)
    a, b = make_nodes(universe_of(common, one, two), [*common, *one], [*common, *two])
    assert a.replica.records.context == b.replica.records.context
    talk(a, b, wires_of(common, one, two), max_messages=FEW)
    assert_equal(a, b)
    assert len(a.replica.records.equivocations) == len(b.replica.records.equivocations) == 1


def test_proof_reaches_a_peer_that_knows_more_of_the_author() -> None:
    """Neither coverage nor hash is equal: first the numbers are made equal, then the hash shows it."""
    one, two = history(AUTHORS[0], [1, 2], payload=0), history(AUTHORS[0], [1, 3, 4], payload=1)
    a, b = make_nodes(universe_of(one, two), one, two)
    talk(a, b, wires_of(one, two), max_messages=FEW + 4)
    assert_equal(a, b)
    assert len(a.replica.records.equivocations) == 1


def test_proof_reaches_everyone_along_a_chain() -> None:
    """Each of five nodes knows another record under one number, and talks only to its neighbours."""
    values = {delta_hash({i: 1}): {i: 1} for i in range(5)}
    forged = [contribution(AUTHORS[0], 1, 1, name) for name in values]
    universe = Universe(97, frozenset(), tuple(forged), values)
    nodes = make_nodes(universe, *([record] for record in forged))
    for _ in range(len(nodes)):
        for left, right in itertools.pairwise(range(len(nodes))):
            talk(nodes[left], nodes[right], wires_of(forged), numbers=(left, right))
    assert_equal(*nodes)
    smallest = sorted(record.id for record in forged)[:2]
    assert [record.id for record in nodes[0].replica.records] == smallest


def test_proofs_that_the_peer_has_are_not_sent_again() -> None:
    """An equivocator long known to everybody must not cost every later exchange its records."""
    forged = [*history(AUTHORS[0], range(1, 30), payload=0), *history(AUTHORS[0], range(1, 30), payload=1)]
    news = history(AUTHORS[1], [1])
    a, b = make_nodes(universe_of(forged, news), [*forged, *news], forged)
    transcript = talk(a, b, wires_of(forged, news), max_messages=FEW)
    assert transcript.records_by(0) == [record.wire for record in news]
    assert transcript.records_by(1) == []
    assert_equal(a, b)


def test_proof_goes_along_with_what_is_lacking() -> None:
    """A peer that lacks later records of the author gets the proof with them, not the author's whole log after."""
    log, later = history(AUTHORS[0], range(1, 50)), history(AUTHORS[0], [50])
    forged = history(AUTHORS[0], [7], payload=1)
    a, b = make_nodes(universe_of(log, later, forged), [*log, *later, *forged], log)
    transcript = talk(a, b, wires_of(log, later, forged), max_messages=FEW)
    assert set(transcript.records_by(0)) == {record.wire for record in (log[6], *later, *forged)}
    assert_equal(a, b)


def test_equals_send_no_records_whatever_their_tables_say() -> None:
    """Both got news from a third node, so their tables of each other are old; equal digests say that all is there."""
    mine, theirs, news = history(AUTHORS[0], [1]), history(AUTHORS[1], [1]), history(AUTHORS[2], [1, 2])
    a, b = make_nodes(universe_of(mine, theirs, news), mine, theirs)
    wires = wires_of(mine, theirs, news)
    talk(a, b, wires)
    for node in (a, b):
        node.replica = node.replica.insert(news, node.universe.delta)
    set_digest, sum_digest = b.digests
    a.hear(1, SyncMessage(set_digest=set_digest, sum_digest=sum_digest), wires)
    answer = a.speak(1)
    assert answer is not None
    assert not answer.records
    assert not answer.table and not answer.complete


# Forgetting: a node may start over with a peer at any time, and the peer does not know that it did.


@given(st.data())
def test_one_side_may_start_over(data: st.DataObject) -> None:
    """Whatever was lost before: one side with a fresh state is enough, whichever side, whoever speaks first."""
    universe = data.draw(universes())
    known = data.draw(knowing(universe, 2))
    wires = wires_of(universe.records)
    a, b = make_nodes(universe, *known)
    for _ in range(data.draw(st.integers(0, 4))):
        speaker, listener = data.draw(st.sampled_from([(0, 1), (1, 0)]))
        message = (a, b)[speaker].speak(listener)
        if message is not None and data.draw(st.booleans()):
            (a, b)[listener].hear(speaker, message, wires)
            (a, b)[listener].fold()
    if data.draw(st.booleans()):
        a.forget(1)
    else:
        b.forget(0)
    if data.draw(st.booleans()):
        talk(a, b, wires, numbers=(0, 1), max_messages=2 * FEW)
    else:
        talk(b, a, wires, numbers=(1, 0), max_messages=2 * FEW)
    assert_equal(a, b)
    laws.assert_stands_for(universe, a.replica, *(universe.record_set(records) for records in known))


def test_news_on_the_side_that_started_over_get_through() -> None:
    """B has told A its table and has nothing new; A starts over and has news. B must tell its table once more."""
    mine, theirs, news = history(AUTHORS[0], [1]), history(AUTHORS[1], [1]), history(AUTHORS[0], [2])
    a, b = make_nodes(universe_of(mine, theirs, news), mine, [*mine, *theirs])
    wires = wires_of(mine, theirs, news)
    talk(a, b, wires)
    a.replica = a.replica.insert(news, a.universe.delta)
    a.forget(1)
    talk(a, b, wires, max_messages=FEW)
    assert_equal(a, b)


def test_question_is_asked_until_something_is_heard() -> None:
    """The first question is lost; what A says next, with news, must be a question again."""
    mine, theirs, news = history(AUTHORS[0], [1]), history(AUTHORS[1], [1]), history(AUTHORS[0], [2])
    a, b = make_nodes(universe_of(mine, theirs, news), mine, [*mine, *theirs])
    wires = wires_of(mine, theirs, news)
    talk(a, b, wires)
    a.forget(1)
    assert a.speak(1) is not None
    a.replica = a.replica.insert(news, a.universe.delta)
    talk(a, b, wires, max_messages=FEW)
    assert_equal(a, b)


def test_question_is_answered_by_an_equal() -> None:
    """B has said its digests long ago. Asked again it says them again, or A would not know that they are equal."""
    universe = build_universe(300)
    a, b = make_nodes(universe, universe.records, universe.records)
    talk(a, b, {})
    a.forget(1)
    transcript = talk(a, b, {})
    assert [speaker for speaker, _ in transcript.said] == [0, 1]
    assert a.states[1].their_digest == a.replica.records.digest


@pytest.mark.parametrize("lost", range(6))
@pytest.mark.parametrize("fresh", ["caller", "callee"])
def test_loss_of_any_message_is_repaired(lost: int, fresh: str) -> None:
    universe = build_universe(300)
    a, b = make_nodes(universe, universe.records[::2], universe.records[1::2])
    wires = wires_of(universe.records)
    for turn in range(lost + 1):
        speaker, listener = turn % 2, 1 - turn % 2
        message = (a, b)[speaker].speak(listener)
        if message is not None and turn < lost:
            (a, b)[listener].hear(speaker, message, wires)
            (a, b)[listener].fold()
    if fresh == "caller":
        a.forget(1)
    else:
        b.forget(0)
    talk(a, b, wires, max_messages=2 * FEW)
    assert_equal(a, b)


def test_stale_table_loses_nothing() -> None:
    """A's table of B is from before B lost its disk. Once B starts over it gets everything, also what was 'sent'."""
    universe = build_universe(300)
    a, b = make_nodes(universe, universe.records, universe.records[:9])
    wires = wires_of(universe.records)
    talk(a, b, wires)
    b = make_nodes(universe, [])[0]
    talk(b, a, wires, numbers=(1, 0), max_messages=2 * FEW)
    assert_equal(a, b)


def test_bare_digests_as_an_answer_change_no_belief() -> None:
    """A node that must answer something and has nothing to say sends its digests: this starts nothing over."""
    mine, theirs = history(AUTHORS[0], range(1, 9)), history(AUTHORS[1], [1])
    a, b = make_nodes(universe_of(mine, theirs), mine, theirs)
    wires = wires_of(mine, theirs)
    for _ in range(30):
        message = a.speak(1)
        if message is None:
            break
        b.hear(0, message, wires)
        set_digest, sum_digest = b.digests
        answer = b.speak(0) or SyncMessage(set_digest=set_digest, sum_digest=sum_digest)
        a.hear(1, answer, wires)
    else:
        pytest.fail("a slow peer is told the same things again and again")
    b.fold()
    talk(b, a, wires, numbers=(1, 0))
    assert_equal(a, b)


def test_both_speaking_at_once() -> None:
    """Messages cross on the wire: it costs a repetition, and still ends."""
    universe = build_universe(300)
    for seed in range(20):
        rng = random.Random(seed)
        known = [rng.sample(universe.records, k=rng.randrange(len(universe.records))) for _ in range(2)]
        a, b = make_nodes(universe, *known)
        wires = wires_of(universe.records)
        for _ in range(FEW):
            crossing = a.speak(1), b.speak(0)
            if crossing == (None, None):
                break
            for listener, (speaker, message) in ((b, (0, crossing[0])), (a, (1, crossing[1]))):
                if message is not None:
                    listener.hear(speaker, message, wires)
                    listener.fold()
        else:
            pytest.fail("they never stop talking")
        assert_equal(a, b)


# What a peer says may be anything.


@pytest.mark.parametrize(
    "table",
    [
        (),
        (LogSummary(PastEntry(AUTHORS[0], 1 << 60, ()), bytes(32)),),
        (LogSummary(PastEntry(AUTHORS[0], 0, ()), bytes(32)),),
        (LogSummary(PastEntry(b"", 3, (2, 2, 1)), b""),),
        (LogSummary(PastEntry(AUTHORS[0], 3, ()), bytes(32)), LogSummary(PastEntry(AUTHORS[0], 1, ()), bytes(32))),
    ],
)
def test_strange_tables_only_cost_a_few_messages_each(table: tuple[LogSummary, ...]) -> None:
    universe = build_universe(300)
    mine = universe.replica(universe.records)
    state = SyncState()
    for _ in range(5):
        message = SyncMessage(set_digest=bytes(32), sum_digest=bytes(32), table=table)
        state = receive(state, message)
        for _ in range(3):  # a start, rows, the outline
            state, _ = next_message(mine, state)
        assert next_message(mine, state)[1] is None
    assert len(state.sent) <= len(mine.records)


# Many authors: the outline is told level by level.


def crowd(number: int, count: int = 1000) -> list[Record]:
    """A record each of `count` authors."""
    name = sorted(VALUES)[0]
    return [contribution(blake3(b"author %d of %d" % (n, number)).digest(), 1, 1, name) for n in range(count)]


def authors_told(transcript: Transcript) -> int:
    return sum(len(message.table) + len(message.complete) for _, message in transcript.said)


@pytest.mark.parametrize("missing", [(0, 0), (1, 0), (0, 1), (3, 2), (500, 500), (1000, 0), (0, 1000)])
def test_a_crowd_is_compared_by_its_differences(missing: tuple[int, int]) -> None:
    everyone = crowd(0)
    known = everyone[missing[0] :], everyone[: len(everyone) - missing[1]]
    a, b = make_nodes(universe_of(everyone), *known)
    transcript = talk(a, b, wires_of(everyone))
    assert_equal(a, b)
    assert len(transcript.records_by(0)) == missing[1] and len(transcript.records_by(1)) == missing[0]
    differences = sum(missing)
    branches = [branch for _, message in transcript.said for branch in message.branches]
    assert len(branches) <= 3 * differences
    assert authors_told(transcript) <= 2 * len(everyone) and authors_told(transcript) <= 2 * LEAF_AUTHORS * differences


def test_one_author_of_a_crowd_equivocates() -> None:
    everyone = crowd(0)
    other = [contribution(everyone[7].author, 1, 1, sorted(VALUES)[1])]
    a, b = make_nodes(universe_of(everyone, other), everyone, [*everyone[:7], *other, *everyone[8:]])
    talk(a, b, wires_of(everyone, other))
    assert_equal(a, b)
    assert len(a.replica.records.equivocations) == 1


def test_news_cost_a_row_each_whatever_else_differs() -> None:
    """Two of a crowd: B has other news, and is told this one without a comparison. Told again, it is not sent again."""
    everyone, mine, theirs = crowd(0), crowd(1, 1), crowd(2, 5)
    a, b = make_nodes(universe_of(everyone, mine, theirs), [*everyone, *mine], [*everyone, *theirs])
    wires = wires_of(everyone, mine, theirs)
    for expected in (1, 0):
        a.forget(1)
        transcript = talk(a, b, wires, news=[mine[0].author])
        assert transcript.said[0][1].start == "news"
        assert len(transcript.records_by(0)) == expected and not transcript.records_by(1)
        assert authors_told(transcript) <= 3 and not any(message.branches for _, message in transcript.said)
    a.forget(1)
    talk(a, b, wires)
    assert_equal(a, b)


def test_states_and_messages_are_values() -> None:
    universe = build_universe(300)
    replica = universe.replica(universe.records)
    state = SyncState()
    before = laws.dump(replica)
    first = next_message(replica, state)
    assert first == next_message(replica, state)
    assert state == SyncState()
    assert laws.dump(replica) == before
