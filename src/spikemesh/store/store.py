"""The store: one folder, held by one process, with its blobs, its records, its sum and its small values."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from blake3 import blake3

from spikemesh.errors import StoreError
from spikemesh.files.rim import corrupt, os_errors
from spikemesh.files.whole import folder_lock, make_folder, remove_unfinished, sync
from spikemesh.store.blobs import BlobStore
from spikemesh.store.database import Database, make_seal

ID_BYTES = 32
MAX_SEQ = (1 << 63) - 1
PAGE_ROWS = 1024
"""Records read at once; the lock is free between two pages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordRow:
    """A record as the store sees it: `wire` is opaque, `id` and `author` have 32 bytes."""

    id: bytes
    author: bytes
    seq: int
    wire: bytes

    def __post_init__(self) -> None:
        if len(self.id) != ID_BYTES or len(self.author) != ID_BYTES or not 0 <= self.seq <= MAX_SEQ:
            raise ValueError(
                f"a record has an id and an author of {ID_BYTES} bytes and a seq of 0..{MAX_SEQ}, got "
                f"{len(self.id)}, {len(self.author)} and {self.seq}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedSum:
    """The exact sum as it was saved: the bytes of all chunks, and the ids of the contributions it counts."""

    chunks: tuple[bytes, ...]
    folded_ids: frozenset[bytes]
    digest: bytes


class Store:
    """Get one from `Store.open`. Any thread may call any method; each of them is durable when it returns.

    An error changes nothing: after `StoreFull` and freeing space, the same call succeeds.
    """

    def __init__(
        self, folder: Path, blobs: BlobStore, pieces: BlobStore, database: Database, held: contextlib.ExitStack
    ) -> None:
        self.folder, self.blobs, self.pieces = folder, blobs, pieces
        self._database, self._held = database, held
        self._recorded: frozenset[bytes] = frozenset()  # ids seen among the records; those are never removed

    @classmethod
    def open(cls, folder: Path, *, create: bool = True) -> Store:
        """Open the store in `folder`, and remove what a crash left unfinished there.

        `StoreBusy` if another process holds it, `StoreCorrupt` if the index is damaged, `StoreError` if it cannot
        be used, or is not there and `create` is false.
        """
        path = folder / "node.sqlite"
        with os_errors("opening", folder):
            if not create and not path.is_file():
                raise StoreError(f"{folder} holds no spikemesh node. Check the path, or join a run there first.")
            make_folder(folder)
            if not path.exists():  # also for a process that was killed between making the folder and syncing that
                with contextlib.suppress(PermissionError):  # a parent that is not ours to read
                    sync(folder.parent)
        with contextlib.ExitStack() as held:
            held.enter_context(folder_lock(folder))
            with os_errors("opening", folder):
                remove_unfinished(folder)
                blobs, pieces = (BlobStore(folder / name, folder / "corrupt") for name in ("blobs", "pieces"))
                database = Database(path)
                held.callback(database.close)
                sync(folder)
            return cls(folder, blobs, pieces, database, held.pop_all())

    def close(self) -> None:
        """Let go of the folder. Closing again does nothing."""
        self._held.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- records

    def add_records(self, rows: Iterable[RecordRow]) -> None:
        """Keep all `rows` or, on an error, none. A row whose id is held already is left as it is.

        The blobs that they name must be in `blobs` before this, unless the sum already stands for them.
        """
        rows = list(rows)
        with self._database.transaction("adding records to") as connection:
            _insert(connection, rows)

    def records(self) -> Iterator[RecordRow]:
        """Every record, in order of arrival. `StoreCorrupt` at the first that is not what was written."""
        after = 0
        while page := self._page(after):
            for position, record_id, author, seq, wire, seal in page:
                self._database.check(f"record {position}", seal, record_id, author, seq, wire)
                yield RecordRow(id=record_id, author=author, seq=seq, wire=wire)
            after = page[-1][0]

    def _page(self, after: int) -> list[tuple[int, bytes, bytes, int, bytes, bytes]]:
        query = "SELECT position, id, author, seq, wire, seal FROM record WHERE position > ? ORDER BY position LIMIT ?"
        with self._database.reading("reading records of") as connection:
            return connection.execute(query, (after, PAGE_ROWS)).fetchall()

    # --- the sum and the set it stands for

    def save_sum(
        self,
        dirty_chunks: Mapping[int, bytes | memoryview],
        folded_ids: Iterable[bytes],
        digest: bytes,
        *,
        records: Iterable[RecordRow] = (),
    ) -> None:
        """Replace the saved sum and the set it stands for, and add `records`, in one transaction.

        `dirty_chunks` are those that differ from the last successful save, by number from 0; `folded_ids` is the
        whole set, not a difference, and all of it must be among the records; `digest` is BLAKE3 over the BLAKE3
        hashes of all chunks in order. `ValueError`, and nothing changed, if these do not fit together.
        """
        rows, folded = list(records), frozenset(folded_ids)
        ids = b"".join(folded)
        with self._database.transaction("saving the sum to") as connection:
            _insert(connection, rows)
            if not all(_has_record(connection, record_id) for record_id in folded - self._recorded):
                raise ValueError("the sum may only stand for records of this store: add them first, or with it")
            connection.executemany(
                "INSERT OR REPLACE INTO chunk (number, hash, data) VALUES (?, ?, ?)",
                ((number, blake3(data).digest(), data) for number, data in dirty_chunks.items()),
            )
            hashes = connection.execute("SELECT number, hash FROM chunk ORDER BY number").fetchall()
            if [number for number, _ in hashes] != list(range(len(hashes))):
                raise ValueError("chunks are numbered from 0 without gaps; the first save must have all of them")
            if blake3(b"".join(data for _, data in hashes)).digest() != digest:
                raise ValueError("the digest is not that of the chunks: is a changed chunk missing?")
            connection.execute(
                "INSERT OR REPLACE INTO folded (only, digest, ids, seal) VALUES (1, ?, ?, ?)",
                (digest, ids, make_seal(digest, ids)),
            )
        self._recorded = folded

    def load_sum(self) -> SavedSum | None:
        """The sum as last saved, checked: `StoreCorrupt` if any byte of it is not what was saved. None before that."""
        with self._database.reading("loading the sum of") as connection:
            folded = connection.execute("SELECT digest, ids, seal FROM folded").fetchone()
            if folded is None:
                return None
            chunks = tuple(data for (data,) in connection.execute("SELECT data FROM chunk ORDER BY number"))
            recorded = {record_id for (record_id,) in connection.execute("SELECT id FROM record")}
        digest, ids, seal = folded
        self._database.check("the list of folded records", seal, digest, ids)
        if not all(isinstance(chunk, bytes) for chunk in chunks) or _sum_digest(chunks) != digest:
            raise corrupt(self._database.path, "the saved sum is not what was written")
        folded_ids = frozenset(ids[start : start + ID_BYTES] for start in range(0, len(ids), ID_BYTES))
        if not folded_ids <= recorded:
            raise corrupt(self._database.path, "the saved sum stands for records that are missing")
        return SavedSum(chunks=chunks, folded_ids=folded_ids, digest=digest)

    # --- small values

    def get_value(self, key: str) -> bytes | None:
        """The value last set under `key`; None if there is none. `StoreCorrupt` if it is not what was written."""
        name = key.encode()
        with self._database.reading("reading a value of") as connection:
            row = connection.execute("SELECT value, seal FROM value WHERE key = ?", (name,)).fetchone()
        if row is None:
            return None
        value: bytes = row[0]
        self._database.check(f"the value {key!r}", row[1], name, value)
        return value

    def set_value(self, key: str, value: bytes) -> None:
        name = key.encode()
        with self._database.transaction("setting a value in") as connection:
            connection.execute(
                "INSERT OR REPLACE INTO value (key, value, seal) VALUES (?, ?, ?)",
                (name, value, make_seal(name, value)),
            )


def _insert(connection: sqlite3.Connection, rows: list[RecordRow]) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO record (id, author, seq, wire, seal) VALUES (?, ?, ?, ?, ?)",
        ((r.id, r.author, r.seq, r.wire, make_seal(r.id, r.author, r.seq, r.wire)) for r in rows),
    )


def _has_record(connection: sqlite3.Connection, record_id: bytes) -> bool:
    return connection.execute("SELECT 1 FROM record WHERE id = ?", (record_id,)).fetchone() is not None


def _sum_digest(chunks: Iterable[bytes]) -> bytes:
    return blake3(b"".join(blake3(chunk).digest() for chunk in chunks)).digest()
