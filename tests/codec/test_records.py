"""Records and genesis: round trips, golden bytes, what an author may not sign, and the bounded past."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.codec.examples import AUTHOR, CONTRIBUTION, GENESIS, KEY, RETRACTION, RUN, contribution, retraction

from spikemesh.codec import (
    MAX_RECORD_BYTES,
    bounded_past,
    decode_genesis,
    decode_record,
    encode_genesis,
    pack_wires,
    run_id,
    sign_record,
    unpack_wires,
)
from spikemesh.codec.records import MAX_EXTRAS, MAX_PAST
from spikemesh.crdt import MAX_SEQ, WEIGHT_ONE, CausalContext, Genesis, PastEntry, Record, TensorSpec
from spikemesh.errors import InvalidData

GOLDEN = Path(__file__).parent / "golden"

ids = st.binary(min_size=32, max_size=32)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@st.composite
def contexts(draw: st.DrawFn, max_authors: int = 100) -> CausalContext:
    seqs = st.frozensets(st.integers(1, 40) | st.integers(1, MAX_SEQ - 1), min_size=1, max_size=8)
    seen = draw(st.dictionaries(st.binary(min_size=1, max_size=1), seqs, max_size=max_authors))
    entries = [PastEntry(name * 32, 0, tuple(sorted(numbers))) for name, numbers in seen.items()]
    return CausalContext.from_entries(entries)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    contexts(),
    st.integers(1, WEIGHT_ONE),
    ids,
    st.integers(1, 1 << 30),
    st.integers(0, 1 << 48),
)
def test_contribution_round_trip(
    context: CausalContext, weight: int, delta_hash: bytes, delta_bytes: int, num_tokens: int
) -> None:
    body = contribution(
        seq=context.last(AUTHOR) + 1,
        past=bounded_past(context, AUTHOR),
        weight=weight,
        delta_hash=delta_hash,
        delta_bytes=delta_bytes,
        num_tokens=num_tokens,
    )
    record = sign_record(body, KEY)
    assert len(record.wire) <= MAX_RECORD_BYTES
    assert decode_record(record.wire, run_id=RUN) == record
    assert record.body == body and record.id == blake3(record.wire[64:]).digest()


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.sets(ids, min_size=1, max_size=20))
def test_retraction_round_trip(targets: set[bytes]) -> None:
    record = sign_record(retraction(targets=tuple(sorted(targets))), KEY)
    assert decode_record(record.wire, run_id=RUN) == record


@pytest.mark.parametrize(
    ("name", "record"), [("contribution", CONTRIBUTION), ("retraction", RETRACTION)], ids=["contribution", "retraction"]
)
def test_golden_records(name: str, record: Record) -> None:
    golden = bytes.fromhex((GOLDEN / f"{name}.hex").read_text())
    assert record.wire == golden
    assert decode_record(golden, run_id=RUN) == record


def test_golden_genesis() -> None:
    golden = bytes.fromhex((GOLDEN / "genesis.hex").read_text())
    assert encode_genesis(GENESIS) == golden
    assert decode_genesis(golden) == GENESIS
    assert run_id(GENESIS) == blake3(golden).digest() == RUN


def test_signing_twice_gives_the_same_record() -> None:
    assert sign_record(contribution(), KEY) == CONTRIBUTION


def test_another_run_refuses_the_record() -> None:
    with pytest.raises(InvalidData, match="another run"):
        decode_record(CONTRIBUTION.wire, run_id=bytes(32))


def test_a_signature_counts_for_records_only() -> None:
    body = CONTRIBUTION.wire[64:]
    with pytest.raises(InvalidData, match="signature"):
        decode_record(KEY.sign(body) + body, run_id=RUN)


def test_only_the_author_signs() -> None:
    other = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
    with pytest.raises(ValueError, match="not the key that signs"):
        sign_record(contribution(), other)
    body = CONTRIBUTION.wire[64:]
    with pytest.raises(InvalidData, match="signature"):
        decode_record(other.sign(b"spikemesh/1 record\0" + body) + body, run_id=RUN)


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": 0},
        {"seq": MAX_SEQ + 1},
        {"weight": 0},
        {"weight": WEIGHT_ONE + 1},
        {"delta_bytes": 0},
        {"num_tokens": -1},
        {"delta_hash": b""},
        {"run_id": b""},
        {"past": (PastEntry(AUTHOR, 3),)},
        {"past": (PastEntry(b"\x01" * 32, 0),)},
    ],
)
def test_what_no_peer_accepts_is_not_signed(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        sign_record(contribution(**changes), KEY)


def test_a_record_that_grew_too_long_is_not_signed() -> None:
    targets = tuple(n.to_bytes(32, "big") for n in range(200))
    with pytest.raises(ValueError, match="fewer targets"):
        sign_record(retraction(targets=targets), KEY)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(contexts(), st.integers(1, MAX_PAST))
def test_bounded_past(context: CausalContext, limit: int) -> None:
    """A listing of part of the context: the author's own entry first of all, then those of the most advanced."""
    past = bounded_past(context, AUTHOR, limit)
    assert len(past) == min(limit, len(context.authors()))
    assert [entry.author for entry in past] == sorted(entry.author for entry in past)
    assert sum(len(entry.extras) for entry in past) <= MAX_EXTRAS
    assert CausalContext.from_entries(past) <= context
    chosen = {entry.author for entry in past}
    left = context.authors() - chosen
    if left and chosen - {AUTHOR}:
        assert min(map(context.last, chosen - {AUTHOR})) >= max(map(context.last, left))


def test_the_largest_past_fits() -> None:
    every_second = tuple(range(MAX_SEQ - 9, MAX_SEQ, 2))
    others = [PastEntry(bytes([n]) * 32, MAX_SEQ // 2, every_second) for n in range(200)]
    context = CausalContext.from_entries([*others, PastEntry(AUTHOR, MAX_SEQ // 2, every_second)])
    past = bounded_past(context, AUTHOR)
    assert len(past) == MAX_PAST and AUTHOR in {entry.author for entry in past}
    assert sum(len(entry.extras) for entry in past) == MAX_EXTRAS
    largest = sign_record(
        contribution(seq=MAX_SEQ, past=past, weight=WEIGHT_ONE, delta_bytes=1 << 31, num_tokens=1 << 48), KEY
    )
    assert len(largest.wire) <= MAX_RECORD_BYTES
    with_targets = sign_record(
        retraction(seq=MAX_SEQ, past=past, targets=tuple(bytes([n]) * 32 for n in range(15))), KEY
    )
    assert len(with_targets.wire) <= MAX_RECORD_BYTES


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.data())
def test_genesis_round_trip(data: st.DataObject) -> None:
    names = sorted(
        data.draw(st.sets(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), min_size=1, max_size=8))
    )
    scalars = st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    settings_map = st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), scalars | st.just("é")
    )
    tensors = []
    for name in names:
        rows, columns = data.draw(st.integers(1, 500)), data.draw(st.integers(1, 500))
        alive = data.draw(st.integers(1, rows * columns) | st.none())
        tensors.append(TensorSpec(name, (rows, columns), rows * columns if alive is None else alive, alive is not None))
    genesis = Genesis(
        name="run",
        founder=AUTHOR,
        model=data.draw(settings_map),
        recipe=data.draw(settings_map),
        tensors=tuple(tensors),
        init_hash=data.draw(ids),
        init_bytes=data.draw(st.integers(1, 1 << 40)),
        grid_exponent=data.draw(st.integers(-64, 0)),
    )
    assert decode_genesis(encode_genesis(genesis)) == genesis
    shuffled = msgspec.structs.replace(genesis, model=dict(reversed(genesis.model.items())))
    assert encode_genesis(shuffled) == encode_genesis(genesis) and run_id(shuffled) == run_id(genesis)


def test_a_genesis_out_of_range_has_no_encoding() -> None:
    for change in ({"name": ""}, {"tensors": ()}, {"grid_exponent": 5}, {"model": {"a": float("nan")}}):
        with pytest.raises(ValueError):
            encode_genesis(msgspec.structs.replace(GENESIS, **change))


def test_a_genesis_of_many_tensors_is_bounded() -> None:
    tensors = tuple(TensorSpec(f"{n:064}", (1,), 1, False) for n in range(20_000))
    with pytest.raises(ValueError, match="bytes"):
        encode_genesis(msgspec.structs.replace(GENESIS, tensors=tensors))


def test_packed_wires() -> None:
    wires = [CONTRIBUTION.wire, RETRACTION.wire, b"x" * MAX_RECORD_BYTES, b"y"]
    packed = pack_wires(wires)
    assert list(unpack_wires(packed)) == wires
    assert list(unpack_wires(b"")) == []
    for bad in (packed + b"\0", packed + b"\0\0", packed + b"\x01\0", packed[:-1], pack_wires([b"x" * 4097])):
        with pytest.raises(InvalidData):
            list(unpack_wires(bad))
