"""A newcomer to a run of a large model: how long until it could train, how many bytes that takes, and how much memory.

A founder holds a run of 250 million float32 weights (1 GB) with a history of contributions. A newcomer comes with its
ticket: it downloads the weights that the run started with, and the sum of all contributions as a snapshot. Another one
is killed half-way (SIGKILL) and started again. Each is done when it has the weights that its trainer would start with.

Beside them the physical limit: the same bytes over one plain TCP connection on loopback into one file, synced.

    python benchmarks/newcomer.py --commit
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import tempfile
import threading
import time
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


def newcomer(folder: Path, ticket: str) -> Peer:
    return Peer((sys.executable, OUR_PEER, folder, "1", ticket))


def joined(report: Report, name: str, folder: Path, ticket: str, digest: str, num_bytes: int) -> float:
    """A newcomer's way to its weights; seconds."""
    start_s = time.monotonic()
    peer = newcomer(folder, ticket)
    peer.tell(do="resolve")
    peer.hear()
    seconds = time.monotonic() - start_s
    peer.tell(do="look")
    seen = peer.hear()
    peer.kill()
    report.fact(f"{name}.seconds", seconds, "s until it could train", against="start of its process")
    report.at_most(
        f"{name}.bytes", seen["received_bytes"] / num_bytes, "times", bar=1.1, against="start and snapshot, once"
    )
    report.at_most(f"{name}.deltas", seen["deltas_fetched"], "deltas", bar=0, against="those of the history")
    report.at_least(f"{name}.from_snapshot", seen["from_snapshot"], "yes", bar=1, against="replaying the history")
    report.at_least(f"{name}.equal", seen["digest"] == digest, "yes", bar=1, against="the founder's digest")
    report.fact(f"{name}.peak", seen["peak_rss_bytes"] / num_bytes, "times", against="start and snapshot")
    return seconds


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
        founder = Peer((sys.executable, OUR_PEER, place / "founder", "0"))
        ending.callback(founder.kill)
        founder.tell(do="look")
        digest = founder.hear()["digest"]
        ticket = founder.hello["ticket"]
        seconds = joined(report, "newcomer", place / "first", ticket, digest, num_bytes)
        report.fact("newcomer.ratio", seconds / copied_s, "times", against="the copy")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
