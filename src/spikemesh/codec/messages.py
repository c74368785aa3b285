"""What nodes say to each other: a tagged union of requests and their replies, bounded field by field.

    Hello        -> Welcome         who and where I am; who else takes part
    GetGenesis   -> GenesisReply    the run's description, by its id
    SyncMessage  -> SyncMessage     crdt.sync carries what it says
    GetBlob      -> BlobPart        a part of a blob, by its hash
    GetParts     -> Parts           the hashes of a large blob's parts, so that each can be checked when it comes
    GetSnapshot  -> Snapshot        the names of a replica's pieces; they are fetched as blobs
    Vouch        -> Vouched         the sum digest you had when your records had this digest
    anything     -> Refused         why not

Types bound what they can; `decode_message` checks the rest, so that a handler never sees a value out of range.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from spikemesh.codec.canonical import HASH_BYTES, ID_BYTES, Hash, Id, encode, parse
from spikemesh.codec.delta import MAX_COORDINATES
from spikemesh.codec.records import MAX_BLOB_BYTES, MAX_GENESIS_BYTES, MAX_RECORD_BYTES, past_flaws
from spikemesh.crdt import CHUNK_COORDINATES, PART_DIGEST_BYTES, Branch, LogSummary, SyncMessage
from spikemesh.errors import InvalidData

PROTOCOL_VERSION = 2

MAX_PART_BYTES = 4 << 20
"""Of a blob in one message."""

PART_BYTES = 1 << 20
"""Of a large blob, in `Parts`: each but the last has as many."""

MAX_MESSAGE_BYTES = MAX_PART_BYTES + (64 << 10)
MAX_SYNC_RECORDS_BYTES = 1 << 20
MAX_SYNC_RECORDS = 8192
MAX_SYNC_AUTHORS = 65_536
MAX_SYNC_BRANCHES = 256
BRANCH_DIGESTS = 16
MAX_ADDRESSES = 16
MAX_PEERS = 64
MAX_CHUNKS = MAX_COORDINATES // CHUNK_COORDINATES
MAX_PARTS = 1 << 16
MAX_TEXT_CHARS = 1024

URL_CHARS = frozenset(map(chr, range(33, 127)))
PORTS = frozenset(map(str, range(1, 65_536)))

Address = Annotated[str, Meta(max_length=64)]
Prefix = Annotated[str, Meta(max_length=2 * ID_BYTES, pattern=r"\A[0-9a-f]*\Z")]
Wire = Annotated[bytes, Meta(min_length=1, max_length=MAX_RECORD_BYTES)]
Relay = Annotated[str, Meta(max_length=256)]
Size = Annotated[int, Meta(ge=0, le=MAX_BLOB_BYTES)]


class PeerInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who a peer is and where it was last seen: `ip:port` strings, perhaps a relay."""

    id: Id
    addresses: Annotated[tuple[Address, ...], Meta(max_length=MAX_ADDRESSES)] = ()
    relay_url: Relay | None = None


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello", forbid_unknown_fields=True):
    run_id: Hash
    address: PeerInfo
    version: Annotated[int, Meta(ge=0, le=65_535)] = PROTOCOL_VERSION


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome", forbid_unknown_fields=True):
    peers: Annotated[tuple[PeerInfo, ...], Meta(max_length=MAX_PEERS)]


class GetGenesis(msgspec.Struct, frozen=True, kw_only=True, tag="get_genesis", forbid_unknown_fields=True):
    run_id: Hash


class GenesisReply(msgspec.Struct, frozen=True, kw_only=True, tag="genesis", forbid_unknown_fields=True):
    """`data` is for `decode_genesis`, and its BLAKE3 must be the run id."""

    data: Annotated[bytes, Meta(max_length=MAX_GENESIS_BYTES)]


class GetBlob(msgspec.Struct, frozen=True, kw_only=True, tag="get_blob", forbid_unknown_fields=True):
    hash: Hash
    offset: Size
    length: Annotated[int, Meta(ge=1, le=MAX_PART_BYTES)]


class BlobPart(msgspec.Struct, frozen=True, kw_only=True, tag="blob", forbid_unknown_fields=True):
    data: Annotated[bytes, Meta(max_length=MAX_PART_BYTES)]
    total_bytes: Size


class GetParts(msgspec.Struct, frozen=True, kw_only=True, tag="get_parts", forbid_unknown_fields=True):
    hash: Hash


class Parts(msgspec.Struct, frozen=True, kw_only=True, tag="parts", forbid_unknown_fields=True):
    """What the sender says the parts of `PART_BYTES` hash to; the whole blob's hash proves it in the end."""

    total_bytes: Size
    hashes: Annotated[tuple[Hash, ...], Meta(max_length=MAX_PARTS)]


class GetSnapshot(msgspec.Struct, frozen=True, kw_only=True, tag="get_snapshot", forbid_unknown_fields=True):
    """`wanted` is the set of records of a snapshot of which some pieces are here already; another one may come."""

    run_id: Hash
    wanted: Hash | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot", forbid_unknown_fields=True):
    """A replica by the hashes of its pieces: its packed records (`pack_wires`) and the chunks of its sum."""

    set_digest: Hash
    sum_digest: Hash
    records_hash: Hash
    records_bytes: Size
    chunk_hashes: Annotated[tuple[Hash, ...], Meta(min_length=1, max_length=MAX_CHUNKS)]


class Vouch(msgspec.Struct, frozen=True, kw_only=True, tag="vouch", forbid_unknown_fields=True):
    set_digest: Hash


class Vouched(msgspec.Struct, frozen=True, kw_only=True, tag="vouched", forbid_unknown_fields=True):
    """None: this node does not know that set of records."""

    sum_digest: Hash | None


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused", forbid_unknown_fields=True):
    """`reason` is one word for the program, `text` a sentence for people."""

    reason: Annotated[str, Meta(max_length=32)]
    text: Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]


class _Branch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    prefix: Annotated[str, Meta(max_length=2 * ID_BYTES - 1, pattern=r"\A[0-9a-f]*\Z")]
    digests: Annotated[
        tuple[Annotated[bytes, Meta(min_length=PART_DIGEST_BYTES, max_length=PART_DIGEST_BYTES)], ...],
        Meta(min_length=BRANCH_DIGESTS, max_length=BRANCH_DIGESTS),
    ]


class _Sync(msgspec.Struct, frozen=True, kw_only=True, tag="sync", forbid_unknown_fields=True):
    """`SyncMessage` as it is read: counts are judged before anything behind them is."""

    set_digest: Hash
    sum_digest: Hash
    start: Literal["compare", "news"] | None = None
    table: Annotated[tuple[LogSummary, ...], Meta(max_length=MAX_SYNC_AUTHORS)] = ()
    complete: Annotated[tuple[Prefix, ...], Meta(max_length=MAX_SYNC_AUTHORS)] = ()
    branches: Annotated[tuple[_Branch, ...], Meta(max_length=MAX_SYNC_BRANCHES)] = ()
    records: Annotated[tuple[Wire, ...], Meta(max_length=MAX_SYNC_RECORDS)] = ()


_Plain = (
    Hello
    | Welcome
    | GetGenesis
    | GenesisReply
    | GetBlob
    | BlobPart
    | GetParts
    | Parts
    | GetSnapshot
    | Snapshot
    | Vouch
    | Vouched
    | Refused
)
Message = _Plain | SyncMessage

_DECODER: msgspec.msgpack.Decoder[_Plain | _Sync] = msgspec.msgpack.Decoder(_Plain | _Sync)


def encode_message(message: Message) -> bytes:
    """The bytes of a message. The text of a `Refused` is cut to what a peer accepts."""
    if isinstance(message, Refused) and len(message.text) > MAX_TEXT_CHARS:
        message = Refused(reason=message.reason, text=message.text[: MAX_TEXT_CHARS - 1] + "…")
    return encode(message)


def decode_message(data: bytes) -> Message:
    """The message that `data` says, every field in range; else `InvalidData`."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise InvalidData(f"a message has at most {MAX_MESSAGE_BYTES} bytes, got {len(data)}")
    message = parse(_DECODER, data, "message")
    match message:
        case _Sync():
            return _sync_message(message)
        case Hello():
            check_peer(message.address)
            if message.version != PROTOCOL_VERSION:
                raise InvalidData(f"the peer speaks version {message.version} of this protocol, not {PROTOCOL_VERSION}")
        case Welcome():
            for peer in message.peers:
                check_peer(peer)
        case BlobPart() if len(message.data) > message.total_bytes:
            raise InvalidData(f"a part of {len(message.data)} bytes of a blob of {message.total_bytes}")
    return message


def check_peer(peer: PeerInfo) -> None:
    """`InvalidData` unless every address is the canonical text of an IP address and a port, and the relay a URL."""
    for text in peer.addresses:
        host, _, port = text.rpartition(":")
        try:
            address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError as error:
            raise InvalidData(f"an address must be ip:port, got {text!r}") from error
        plain = f"[{address}]" if address.version == 6 else str(address)
        if host != plain or port not in PORTS:
            raise InvalidData(f"an address must be ip:port, got {text!r}")
    relay = peer.relay_url
    if relay is not None and not (relay.startswith(("https://", "http://")) and set(relay) <= URL_CHARS):
        raise InvalidData(f"a relay must be an http(s) URL, got {relay!r}")


def _sync_message(read: _Sync) -> SyncMessage:
    for flaw in past_flaws(tuple(row.coverage for row in read.table), MAX_SYNC_AUTHORS, MAX_MESSAGE_BYTES):
        raise InvalidData(flaw)
    if any(len(row.digest) != HASH_BYTES for row in read.table):
        raise InvalidData(f"a digest in the table of a sync message must have {HASH_BYTES} bytes")
    if sum(map(len, read.records)) > MAX_SYNC_RECORDS_BYTES:
        raise InvalidData(f"records in a sync message must have at most {MAX_SYNC_RECORDS_BYTES} bytes in all")
    return SyncMessage(
        set_digest=read.set_digest,
        sum_digest=read.sum_digest,
        start=read.start,
        table=read.table,
        complete=read.complete,
        branches=tuple(Branch(branch.prefix, branch.digests) for branch in read.branches),
        records=read.records,
    )
