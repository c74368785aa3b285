"""Messages between nodes, and tickets."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.codec.examples import AUTHOR, GENESIS, HELLO, RUN, SYNC

from spikemesh.codec import (
    MAX_MESSAGE_BYTES,
    MAX_PART_BYTES,
    BlobPart,
    GenesisReply,
    GetBlob,
    GetGenesis,
    GetParts,
    GetSnapshot,
    Hello,
    Message,
    Parts,
    PeerInfo,
    Refused,
    Snapshot,
    Vouch,
    Vouched,
    Welcome,
    decode_message,
    decode_ticket,
    encode_genesis,
    encode_message,
    encode_ticket,
)
from spikemesh.codec.messages import MAX_CHUNKS, MAX_PEERS, _Sync
from spikemesh.crdt import LogSummary, PastEntry, SyncMessage
from spikemesh.errors import TicketError

H = bytes(range(32))
ids = st.binary(min_size=32, max_size=32)
EVERYWHERE = PeerInfo(id=AUTHOR, addresses=("10.0.0.1:1", "[fe80::1]:65535"), relay_url="https://relay.example./")

MESSAGES: list[Message] = [
    HELLO,
    Hello(run_id=RUN, address=EVERYWHERE),
    Hello(run_id=RUN, address=PeerInfo(id=AUTHOR)),
    Welcome(peers=()),
    Welcome(peers=(EVERYWHERE,) * MAX_PEERS),
    GetGenesis(run_id=RUN),
    GenesisReply(data=encode_genesis(GENESIS)),
    SYNC,
    SyncMessage(set_digest=H, sum_digest=H),
    SyncMessage(set_digest=H, sum_digest=H, table=()),
    SyncMessage(set_digest=H, sum_digest=H, records=(b"x" * 4096,) * 256),
    GetBlob(hash=H, offset=1 << 40, length=MAX_PART_BYTES),
    BlobPart(data=b"", total_bytes=0),
    BlobPart(data=bytes(MAX_PART_BYTES), total_bytes=MAX_PART_BYTES),
    GetParts(hash=H),
    Parts(total_bytes=0, hashes=()),
    Parts(total_bytes=1 << 36, hashes=(H,) * (1 << 16)),
    GetSnapshot(run_id=RUN),
    Snapshot(set_digest=H, sum_digest=H, records_hash=H, records_bytes=7, chunk_hashes=(H,) * MAX_CHUNKS),
    Vouch(set_digest=H),
    Vouched(sum_digest=H),
    Vouched(sum_digest=None),
    Refused(reason="busy", text="too many records wait to be taken in; try again"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_round_trip(message: Message) -> None:
    data = encode_message(message)
    assert len(data) <= MAX_MESSAGE_BYTES
    decoded = decode_message(data)
    assert decoded == message and type(decoded) is type(message)


def test_every_message_is_tried() -> None:
    assert {type(message) for message in MESSAGES} == set(Message.__args__)


def test_a_sync_message_is_read_with_all_its_fields() -> None:
    assert _Sync.__struct_fields__ == SyncMessage.__struct_fields__
    assert _Sync.__struct_config__.tag == SyncMessage.__struct_config__.tag


def test_a_table_of_many_authors_fits_in_a_message() -> None:
    table = tuple(LogSummary(PastEntry(n.to_bytes(32, "big"), 1 << 19), H) for n in range(50_000))
    message = SyncMessage(set_digest=H, sum_digest=H, table=table)
    assert decode_message(encode_message(message)) == message


def test_a_long_refusal_is_cut() -> None:
    refused = decode_message(encode_message(Refused(reason="invalid", text="é" * 5000)))
    assert isinstance(refused, Refused) and len(refused.text) == 1024


@settings(max_examples=50, derandomize=True, deadline=None)
@given(
    st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.ip_addresses(), st.integers(1, 65535)
)
def test_ticket_round_trip(run: bytes, peer_id: bytes, address: object, port: int) -> None:
    host = str(address) if "." in str(address) else f"[{address}]"
    peer = PeerInfo(id=peer_id, addresses=(f"{host}:{port}",))
    ticket = encode_ticket(run, peer)
    assert set(ticket) <= set(string.ascii_lowercase + string.digits)
    assert decode_ticket(ticket) == (run, peer, ())
    assert decode_ticket(f"  {ticket[:50].upper()}\n  {ticket[50:]}\n") == (run, peer, ())


def test_golden_ticket() -> None:
    ticket = encode_ticket(RUN, HELLO.address)
    assert ticket == (
        "spikemesh1"
        "lbu6lbeuyqqog7pxdqi25uotmh73ews3sw6mp7s5hyb3rnvlqsxbg237wdgrkvgeeab2cb576phbbpq5odorrz2lyc"
        "mwpzgwgcn2kdk7dxoimzaskuy3revoge4telrqfyzc4nz2gq2dgm5slmzdambrhjsgeob2hi3v2orugqzthqa"
    )
    assert decode_ticket(ticket) == (RUN, HELLO.address, ())


def test_a_mistyped_ticket_is_a_clear_error() -> None:
    ticket = encode_ticket(RUN, EVERYWHERE)
    for position in range(len(ticket)):
        for letter in "a2z8":
            mistyped = ticket[:position] + letter + ticket[position + 1 :]
            if mistyped == ticket:
                continue
            with pytest.raises(TicketError, match=r"ticket .*(Copy all of it once more|shows its ticket)"):
                decode_ticket(mistyped)
    for position in range(len(ticket) - 1):
        swapped = ticket[:position] + ticket[position + 1] + ticket[position] + ticket[position + 2 :]
        if swapped != ticket:
            with pytest.raises(TicketError):
                decode_ticket(swapped)
    for bad in ("", "spikemesh1", "spikemesh2" + ticket[10:], "x" * 10_000_000, ticket + ticket, ticket * 100):
        with pytest.raises(TicketError):
            decode_ticket(bad)


def test_a_ticket_that_could_not_be_read_is_not_made() -> None:
    for run, peer in (
        (b"", EVERYWHERE),
        (RUN, PeerInfo(id=b"")),
        (RUN, PeerInfo(id=AUTHOR, addresses=("localhost:1",))),
        (RUN, PeerInfo(id=AUTHOR, addresses=("1.2.3.4:1",) * 17)),
    ):
        with pytest.raises(ValueError, match="no ticket"):
            encode_ticket(run, peer)


def test_a_ticket_carries_buckets_that_everybody_can_reach_and_no_keys() -> None:
    buckets = ("s3://name/folder", "hf://datasets/someone/run")
    assert decode_ticket(encode_ticket(RUN, PeerInfo(id=AUTHOR), buckets)) == (RUN, PeerInfo(id=AUTHOR), buckets)
    for bad in (
        "/mnt/shared",
        "file:///etc",
        "http://10.0.0.1/x",
        "ssh://host/x",
        "zip::s3://a/b",
        "s3://key:secret@a/b",
        "s3://a/../b",
        "s3://a?x=1",
        "s3://" + "a" * 300,
    ):
        with pytest.raises(ValueError, match="no ticket"):
            encode_ticket(RUN, PeerInfo(id=AUTHOR), (bad,))
    with pytest.raises(ValueError, match="no ticket"):
        encode_ticket(RUN, PeerInfo(id=AUTHOR), buckets * 3)
