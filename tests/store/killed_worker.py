"""A process that adds records until it is killed; it prints the number of each record that is done."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.store.samples import chunk, row, saved_sum

from spikemesh.store import SavedSum, Store

SAVE_EVERY = 3


def blob(number: int) -> bytes:
    return chunk(number, 0, 40_000)


def sum_after(number: int) -> SavedSum | None:
    """One saved every SAVE_EVERY records, over several hundred KB, so that many kills meet a transaction."""
    if number == 0:
        return None
    return saved_sum({i: chunk(i, number, 200_000) for i in range(4)}, map(row, range(1, number + 1)))


def save(store: Store, number: int) -> None:
    if number % SAVE_EVERY == 0 and (new := sum_after(number)):
        store.save_sum(dict(enumerate(new.chunks)), new.folded_ids, new.digest)


def main(folder: Path) -> None:
    with Store.open(folder) as store:
        number = len(list(store.records()))
        save(store, number)  # it may have been killed right before
        sys.stdout.write("0\n")
        sys.stdout.flush()
        while True:
            number += 1
            store.set_value("seq", str(number).encode())
            store.blobs.put(blob(number))
            store.add_records([row(number)])
            save(store, number)
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
