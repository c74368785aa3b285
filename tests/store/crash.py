"""Runs one history of writes with a fault at each call that changes the disk. `test_crash.py` starts it.

The history is a list of acts; the store is in `STATES[k]` after k of them. Whatever goes wrong, a store that has
acknowledged k acts must be in state k or, if the act in flight got through, k + 1. `python -m tests.store.crash MODE
FOLDER` with `faults.c` preloaded prints how many calls there are; a broken promise ends it with the call's number.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3
from tests.store.samples import chunk, contents, row, sum_digest

from spikemesh.errors import StoreError, StoreFull
from spikemesh.files import write_file_atomic
from spikemesh.store import Store

KILL, TORN = 0, -1
BLOB = blake3(b"blob").digest(3000)
FIRST = {0: chunk(0, 0), 1: chunk(1, 0)}
SECOND = FIRST | {1: chunk(1, 1)}
THIRD = {number: chunk(number, 2) for number in range(3)}


def _save(store: Store, before: dict[int, bytes], after: dict[int, bytes], folded: range, records: range) -> None:
    dirty = {number: data for number, data in after.items() if before.get(number) != data}
    ids = [row(number).id for number in folded]
    store.save_sum(dirty, ids, sum_digest(after), records=map(row, records))


def _write_in_pieces(store: Store, data: bytes) -> None:
    with store.blobs.writing(len(data)) as blob:
        blob.write(3, data[3:])
        blob.write(0, data[:3])


ACTS: list[Callable[[Store], object]] = [
    lambda store: store.blobs.put(b"first"),
    lambda store: _write_in_pieces(store, b"in pieces"),
    lambda store: store.add_records([row(1)]),
    lambda store: _save(store, {}, FIRST, range(1, 2), range(0)),
    lambda store: store.set_value("seq", b"1"),
    lambda store: write_file_atomic(store.folder / "status.json", b"old"),
    lambda store: store.blobs.put(BLOB),
    lambda store: store.add_records(map(row, range(2, 20))),
    lambda store: store.set_value("seq", b"2"),
    lambda store: _save(store, FIRST, SECOND, range(1, 10), range(0)),
    lambda store: write_file_atomic(store.folder / "status.json", b"new" * 100),
    lambda store: _save(store, SECOND, THIRD, range(1, 30), range(20, 30)),
    lambda store: store.blobs.delete(blake3(b"first").digest()),
]


def _states(folder: Path) -> list[dict[str, object]]:
    with Store.open(folder) as store:
        states = [contents(store)]
        for act in ACTS:
            act(store)
            states.append(contents(store))
    return states


def _sweep_kills(folder: Path, fault: int) -> int:
    states = _states(folder / "calm")
    at = 0
    while True:
        at += 1
        node = folder / "node"
        shutil.rmtree(node, ignore_errors=True)
        num_acknowledged, killed = _run_and_die(node, at, fault)
        if not killed:
            assert num_acknowledged == len(ACTS)
            return at - 1
        with Store.open(node) as store:
            assert contents(store) in states[num_acknowledged : num_acknowledged + 2], f"killed at call {at}"
            assert not list(node.rglob("*.unfinished")), f"killed at call {at}: leftovers"
            for act in ACTS[num_acknowledged:]:  # restart and go on: the end is the same
                act(store)
            assert contents(store) == states[-1], f"killed at call {at}: another end"


def _run_and_die(node: Path, at: int, fault: int) -> tuple[int, bool]:
    """How many acts a forked process acknowledged, and whether it was killed."""
    read_end, write_end = os.pipe()
    if (pid := os.fork()) == 0:
        FAULTS.faults_arm(at, fault, 0)
        with Store.open(node) as store:
            for act in ACTS:
                act(store)
                os.write(write_end, b".")
                if TRACES:
                    os.write(1, b"acknowledge act \n")
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as acknowledged:
        num_acknowledged = len(acknowledged.read())
    status = os.waitpid(pid, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, f"call {at}: exit status {status}"
    return num_acknowledged, status != 0


def _sweep_errors(folder: Path, number: int, *, keeps_failing: bool) -> int:
    """Let each call fail once, or from then on until the act has failed; then the same act must succeed."""
    FAULTS.faults_arm(0, 0, 0)
    states = _states(folder / "calm")
    expected = StoreFull if keeps_failing and number != errno.EIO else StoreError
    num_calls = int(FAULTS.faults_calls())
    for at in range(1, num_calls + 1):
        node = folder / "node"
        shutil.rmtree(node, ignore_errors=True)
        FAULTS.faults_arm(at, number, keeps_failing)
        store = _again(lambda node=node: Store.open(node), expected, lambda: None)
        for k, act in enumerate(ACTS):

            def unharmed(at: int = at, k: int = k, store: Store = store) -> None:
                assert contents(store) in states[k : k + 2], f"call {at} failed in act {k}"

            _again(lambda act=act, store=store: act(store), expected, unharmed)
            assert contents(store) == states[k + 1], f"call {at}, after act {k}"
        _again(store.close, expected, lambda: None)
        FAULTS.faults_arm(0, 0, 0)
        with Store.open(node) as store:
            assert contents(store) == states[-1], f"call {at}, after a restart"
    return num_calls


FAILED: list[StoreError] = []


def _again(call: Callable[[], object], expected: type[StoreError], unharmed: Callable[[], None]) -> object:
    try:
        return call()
    except StoreError as error:
        assert isinstance(error, expected), f"{error!r} is no {expected.__name__}"
        FAILED.append(error)
        FAULTS.faults_arm(0, 0, 0)
        unharmed()
        return call()


def _trace(folder: Path) -> None:
    """Every call that changes the disk and every acknowledgement, in order, on stdout: of a calm run, and of one
    process killed at each call with the restarted one after it. A restarted node asks for its blobs first."""
    FAULTS.faults_trace(1)
    for at in range(1, 1000):
        os.write(1, b"new - \n")
        num_acknowledged, killed = _run_and_die(folder / str(at), at, KILL)
        with Store.open(folder / str(at)) as store:
            assert all(map(store.blobs.has, store.blobs.hashes()))
            os.write(1, b"acknowledge restart \n")
            for act in ACTS[num_acknowledged:]:
                act(store)
                os.write(1, b"acknowledge act \n")
        if not killed:
            break


if __name__ == "__main__":
    FAULTS = ctypes.CDLL(None)
    mode, place = sys.argv[1], Path(sys.argv[2])
    TRACES = mode == "trace"
    if mode == "trace":
        _trace(place)
    elif mode in ("kill", "torn"):
        sys.stdout.write(f"{_sweep_kills(place, KILL if mode == 'kill' else TORN)}\n")
    else:
        number = getattr(errno, mode.removesuffix("+"))
        sys.stdout.write(f"{_sweep_errors(place, number, keeps_failing=mode.endswith('+'))} {len(FAILED)}\n")
