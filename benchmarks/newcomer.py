"""A newcomer to a run of a large model: how long until it could train, how many bytes that takes, and how much memory.

A founder holds a run of 250 million float32 weights (1 GB) with a history of contributions. A newcomer comes with its
ticket: it downloads the weights that the run started with, and the sum of all contributions as a snapshot. Another is
killed on the way (SIGKILL) and started again. Each is done when it has the weights that its trainer would start with.

Beside them the physical limit: the same bytes over one plain TCP connection on loopback into one file, synced.

    python benchmarks/newcomer.py --commit
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from equal.our_peer import WEIGHT, drawn_delta
from equal.process import OUR_PEER, Peer, found_run
from harness import Report
from spikemesh.cli.folder import RunFolder
from spikemesh.cli.session import start_layout
from spikemesh.codec import read_tensors, run_id, sign_record
from spikemesh.crdt import Contribution
from spikemesh.node import Identity, Ledger
from spikemesh.store import Store

DENSITY = 0.25
NUM_DELTAS = 2
"""Drawn; the history uses them in turn."""
KILLED_AT = 2 / 3
LOOK_S = 0.05


def write_history(folder: Path, num_contributions: int) -> int:
    """Contributions of the founder, folded into its sum. Returns the bytes of their deltas: a replay's download."""
    genesis = RunFolder(folder).genesis()
    me = Identity.load_or_create(folder)
    with Store.open(folder) as store:
        start = read_tensors(store.blobs.get(genesis.init_hash), expected=start_layout(genesis))
        ledger = Ledger.open(store, genesis, run_id(genesis), start["theta0"])
        deltas = [
            drawn_delta(ledger.num_coordinates, genesis.grid_exponent, 0, number, DENSITY)
            for number in range(NUM_DELTAS)
        ]
        blobs = {blake3(delta).digest(): delta for delta in deltas}
        records = []
        for seq in range(1, num_contributions + 1):
            delta = deltas[seq % len(deltas)]
            body = Contribution(
                run_id=ledger.run_id,
                author=me.id,
                seq=seq,
                past=(),
                weight=WEIGHT,
                delta_hash=blake3(delta).digest(),
                delta_bytes=len(delta),
                num_tokens=1,
            )
            records.append(sign_record(body, me.private_key))
        ledger.insert(records, blobs)
        ledger.save()
    return sum(record.body.delta_bytes for record in records)


def copy_bytes(num_bytes: int, file: Path) -> float:
    """Seconds for so many bytes over plain TCP on loopback into a file that is synced."""
    block = os.urandom(1 << 20)

    def send(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            for _ in range(-(-num_bytes // len(block))):
                connection.sendall(block)

    start_s = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = threading.Thread(target=send, args=(listener,))
        sender.start()
        with socket.create_connection(listener.getsockname()) as connection, file.open("wb") as out:
            while data := connection.recv(1 << 20):
                out.write(data)
            os.fsync(out.fileno())
        sender.join()
    return time.monotonic() - start_s


@dataclass(frozen=True)
class Run:
    """What a newcomer comes to."""

    ticket: str
    digest: str
    num_bytes: int
    """Of the weights that it started with, and of its snapshot."""


def join(report: Report, name: str, run: Run, folder: Path, here_bytes: int = 0) -> float:
    """A newcomer's way to its weights, with so many bytes of them in its folder already; seconds."""
    start_s = time.monotonic()
    with Peer((sys.executable, OUR_PEER, folder, "1", run.ticket)) as peer:
        peer.ask(do="resolve")
        seconds = time.monotonic() - start_s
        seen = peer.ask(do="look")
    total = (here_bytes + seen["received_bytes"]) / run.num_bytes
    report.fact(f"{name}.seconds", seconds, "s until it could train", against="the start of its process")
    report.at_most(f"{name}.bytes", total, "times", bar=1.1, against="start and snapshot, once")
    report.at_most(f"{name}.deltas", seen["deltas_fetched"], "deltas", bar=0, against="those of the history")
    report.at_least(f"{name}.equal", seen["digest"] == run.digest, "yes", bar=1, against="the founder's digest")
    report.fact(f"{name}.peak", seen["peak_rss_bytes"] / run.num_bytes, "times", against="start and snapshot")
    return seconds


def kill_late(run: Run, folder: Path) -> int:
    """A newcomer that gets SIGKILL when two thirds are there. How many bytes that were."""
    command = [sys.executable, OUR_PEER, folder, "1", run.ticket]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    while (here_bytes := folder_bytes(folder)) < KILLED_AT * run.num_bytes:
        if process.poll() is not None:
            raise RuntimeError(f"the newcomer in {folder} ended early, with code {process.returncode}")
        time.sleep(LOOK_S)
    process.kill()
    process.wait()
    return here_bytes


def folder_bytes(folder: Path) -> int:
    """Of the start, or of its parts while it is not complete, and of the snapshot's pieces."""
    held = 0
    for path in [*folder.glob("blobs/*/*"), *folder.glob("pieces/*/*")]:
        with contextlib.suppress(FileNotFoundError):
            held += path.stat().st_size
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=1000.0, help="of float32 weights")
    parser.add_argument("--contributions", type=int, default=200)
    report = Report(__file__, parser=parser)
    num_values = int(report.arguments.megabytes * 1e6 / 4)
    num_bytes = 4 * num_values + 8 * num_values
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as ending:
        place = Path(name)
        found_run(place / "founder", num_values)
        history_bytes = write_history(place / "founder", report.arguments.contributions)
        report.fact("weights", 4 * num_values, "bytes", against="float32")
        report.fact("snapshot", 8 * num_values, "bytes", against=f"a history of {history_bytes / 1e6:.0f} MB of deltas")
        copied_s = copy_bytes(num_bytes, place / "copy")
        (place / "copy").unlink()
        report.fact("copy.seconds", copied_s, "s", against="the same bytes by TCP into a file")
        founder = ending.enter_context(Peer((sys.executable, OUR_PEER, place / "founder", "0")))
        run = Run(founder.hello["ticket"], founder.ask(do="look")["digest"], num_bytes)
        seconds = join(report, "newcomer", run, place / "first")
        report.fact("newcomer.ratio", seconds / copied_s, "times", against="the copy")
        here_bytes = kill_late(run, place / "second")
        report.fact("killed.at", here_bytes / num_bytes, "fraction", against="bytes that were there when it was killed")
        join(report, "killed", run, place / "second", here_bytes)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
