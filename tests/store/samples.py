"""Small stand-ins for what the node keeps: records, blobs and sums, all from a number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from blake3 import blake3

from spikemesh.store import RecordRow, SavedSum, Store


def row(number: int) -> RecordRow:
    name = number.to_bytes(4, "little")
    return RecordRow(
        id=blake3(name).digest(), author=blake3(b"author" + name[:1]).digest(), seq=number, wire=b"wire" * 40 + name
    )


def chunk(number: int, version: int, num_bytes: int = 6000) -> bytes:
    return blake3(f"{number} {version}".encode()).digest(num_bytes)


def sum_digest(chunks: Mapping[int, bytes]) -> bytes:
    """As `spikemesh.crdt.IntegerSum.digest` defines it."""
    return blake3(b"".join(blake3(chunks[number]).digest() for number in sorted(chunks))).digest()


def saved_sum(chunks: Mapping[int, bytes], folded: Iterable[RecordRow]) -> SavedSum:
    return SavedSum(
        chunks=tuple(chunks[number] for number in sorted(chunks)),
        folded_ids=frozenset(r.id for r in folded),
        digest=sum_digest(chunks),
    )


def contents(store: Store) -> dict[str, object]:
    """Everything that the store holds, read back through its checks."""
    return {
        "records": list(store.records()),
        "sum": store.load_sum(),
        "seq": store.get_value("seq"),
        "blobs": {digest: store.blobs.get(digest) for digest in store.blobs.hashes()},
        "blob_bytes": store.blobs.total_bytes,
        "status": path.read_bytes() if (path := store.folder / "status.json").exists() else None,
    }
