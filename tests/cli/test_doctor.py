"""The doctor names every fault that is made here, and only what stops a node from taking part makes it fail."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from iroh.iroh_ffi import EndpointBuilder, RelayMode

from spikemesh.cli.demo.swarm import Swarm
from spikemesh.cli.doctor import machine, network
from spikemesh.cli.folder import RunFolder
from spikemesh.codec import encode_ticket
from spikemesh.node import Identity
from spikemesh.store import Store
from spikemesh.transport import PeerAddress
from tests.hang import HANG_S
from tests.machine import make_read_only, small_disk
from tests.volunteers.crew import ROOT, Crewman
from tests.volunteers.join import found_cheap_run

Run = Callable[..., tuple[int, str, str]]
Report = tuple[int, dict[str, dict[str, Any]]]


@pytest.fixture
def look(run: Run) -> Callable[..., Report]:
    """The doctor's exit code and its findings by name."""

    def call(*arguments: str | Path) -> Report:
        code, out, _ = run("doctor", *arguments, "--json")
        report = json.loads(out)
        assert report["ok"] == (code == 0)
        for finding in report["findings"]:
            assert finding["seen"] and (finding["state"] == "wrong") == bool(finding["code"])
        return code, {finding["name"]: finding for finding in report["findings"]}

    return call


@pytest.fixture
def node(tmp_path: Path) -> RunFolder:
    return found_cheap_run(tmp_path / "node")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    with small_disk(place):
        yield place


def test_a_healthy_node_is_told_so(look: Callable[..., Report], node: RunFolder) -> None:
    before = sorted(path.name for path in node.path.iterdir())
    code, found = look(node.path, "--bind", "127.0.0.1:0")
    assert code == 0
    assert {name for name, finding in found.items() if finding["state"] == "wrong"} == set()
    assert set(found) >= {"version", "kernels", "folder", "memory", "disk", "disk space", "socket", "peers", "clock"}
    assert found["folder"]["seen"].endswith("is whole, with 0 records")
    assert sorted(path.name for path in node.path.iterdir()) == sorted({*before, "lock"})


def test_it_speaks_to_people(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("doctor", "--folder", tmp_path / "new", "--bind", "203.0.113.1:0")
    assert code == 4
    assert "wrong" in out and "UDP cannot be bound at 203.0.113.1:0" in out and "Name an address" in out
    assert not (tmp_path / "new").exists()


def test_it_needs_no_torch() -> None:
    code = (
        "import sys, spikemesh.cli as cli; sys.argv = ['spikemesh', 'doctor', '--bind', '127.0.0.1:0']\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr


# --- the machine


def test_an_installation_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    finding = machine.version()
    assert finding.state == "wrong" and finding.code and "--no-train" in finding.advice


def test_kernels_that_are_not_compiled() -> None:
    assert machine.kernels("numpy").state == "note"
    assert machine.kernels("avx2").state == "ok"


def test_too_little_memory(tmp_path: Path) -> None:
    assert machine.memory(300_000_000, None).state == "wrong"
    assert machine.memory(2_000_000_000, 10_000).state == "ok"
    assert machine.memory(2_000_000_000, 1_000_000_000).state == "wrong"
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert machine.available_memory_bytes(tmp_path) == 8000 * 1024
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("5000000\n")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("1000000\n")
    assert machine.available_memory_bytes(tmp_path) == 4_000_000
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert machine.available_memory_bytes(tmp_path) == 8000 * 1024


def test_a_full_disk(look: Callable[..., Report], disk: Path) -> None:
    code, found = look("--folder", disk / "node", "--bind", "127.0.0.1:0")
    assert code == 5 and found["disk space"]["state"] == "wrong" and "Free some space" in found["disk space"]["advice"]


def test_a_read_only_disk(look: Callable[..., Report], disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "BASE_DISK_BYTES", 1000)
    folder = found_cheap_run(disk / "node").path
    make_read_only(disk)
    code, found = look(folder, "--bind", "127.0.0.1:0")
    assert code == 7 and found["disk space"]["state"] == "ok"
    assert "Make the folder writable" in found["disk"]["seen"] and "Make the folder writable" in found["folder"]["seen"]


def test_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_speed", lambda *_: (0.5, 1e9))
    assert [finding.state for finding in machine.disk(tmp_path, None)] == ["ok", "note"]
    monkeypatch.setattr(machine, "_speed", lambda *_: (0.01, 1e6))
    assert [finding.state for finding in machine.disk(tmp_path, None)] == ["ok", "note"]


def test_damaged_folders(look: Callable[..., Report], node: RunFolder, tmp_path: Path) -> None:
    for name, finding, damage in (("genesis.msgpack", "run", b"x"), ("node.sqlite", "folder", b"y" * 5000)):
        broken = tmp_path / name
        shutil.copytree(node.path, broken)
        (broken / name).write_bytes(damage)
        code, found = look(broken, "--bind", "127.0.0.1:0")
        assert code == 6 and found[finding]["state"] == "wrong" and "damaged" in found[finding]["seen"]


def test_a_folder_of_another_version(look: Callable[..., Report], node: RunFolder) -> None:
    with contextlib.closing(sqlite3.connect(node.path / "node.sqlite")) as database:
        database.execute("PRAGMA user_version = 9")
    code, found = look(node.path, "--bind", "127.0.0.1:0")
    assert code == 7 and "has format 9" in found["folder"]["seen"] and "Install the version" in found["folder"]["seen"]


def test_a_folder_in_use_is_no_fault(look: Callable[..., Report], node: RunFolder) -> None:
    with Store.open(node.path):
        code, found = look(node.path, "--bind", "127.0.0.1:0")
    assert code == 0 and "in use by a running node" in found["folder"]["seen"]


def test_a_clock_that_went_back_or_jumps(node: RunFolder) -> None:
    written_s = max(path.stat().st_mtime for path in node.path.iterdir())
    assert machine.clock(node.path, written_s + 1, 0.0).state == "ok"
    back = machine.clock(node.path, written_s - 86_400, 0.0)
    assert back.state == "note" and "stands 86400 s before" in back.seen
    jumping = machine.clock(node.path, written_s + 1, -3600.0)
    assert jumping.state == "note" and "-3600 s" in jumping.seen


def test_a_folder_without_the_weights_it_started_with(look: Callable[..., Report], node: RunFolder) -> None:
    with Store.open(node.path) as store:
        store.blobs.delete(node.genesis().init_hash)
    code, found = look(node.path, "--bind", "127.0.0.1:0")
    assert code == 6 and "lacks the weights" in found["folder"]["seen"]


def test_words_that_name_no_run(run: Run, tmp_path: Path) -> None:
    assert run("doctor", "nonsense")[0] == 3
    assert run("doctor", tmp_path)[0] == 3
    code, _, said = run("doctor", "--bind", "nowhere")
    assert code == 2 and "expected ip:port" in said


# --- the network


def test_a_port_in_use(look: Callable[..., Report], tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        code, found = look("--folder", tmp_path, "--bind", f"127.0.0.1:{other.getsockname()[1]}")
    assert code == 0 and found["socket"]["state"] == "note" and "is in use" in found["socket"]["seen"]


def test_what_addresses_say() -> None:
    assert network.nat_finding(["1.1.1.1", "192.168.1.2"]).state == "ok"
    assert "behind NAT" in network.nat_finding(["192.168.1.2", "10.0.0.1"]).seen
    assert "no address that another machine" in network.nat_finding(["127.0.0.1", "[::1]"]).seen


def ticket_to(run_id: bytes, *addresses: str) -> str:
    return encode_ticket(run_id, PeerAddress(id=Identity(bytes(31) + b"\1").id, addresses=addresses))


def test_peers_that_are_not_there(look: Callable[..., Report], node: RunFolder, tmp_path: Path) -> None:
    new = ("--folder", tmp_path / "new", "--bind", "127.0.0.1:0")
    code, found = look(ticket_to(node.run_id(), "127.0.0.1:9"), *new)
    assert code == 4 and found["peers"]["state"] == "wrong" and "fresh ticket" in found["peers"]["advice"]
    (peer,) = (finding for name, finding in found.items() if name.startswith("peer "))
    assert "the machine that it runs on" in peer["seen"]
    (peer,) = (f for n, f in look(ticket_to(node.run_id(), "10.255.255.1:9"), *new)[1].items() if n.startswith("peer "))
    assert peer["state"] == "note" and peer["seen"]


def test_who_has_the_run_may_go_on_alone(look: Callable[..., Report], node: RunFolder) -> None:
    node.set_peers((PeerAddress(id=Identity(bytes(31) + b"\1").id, addresses=("127.0.0.1:9",)),))
    code, found = look(node.path, "--bind", "127.0.0.1:0")
    assert code == 0 and found["peers"]["state"] == "note" and "goes on alone" in found["peers"]["seen"]


def test_a_bucket_is_enough(look: Callable[..., Report], run: Run, tmp_path: Path) -> None:
    place, bucket = tmp_path / "first", tmp_path / "bucket"
    assert run("init", place, "--preset", "tiny", "--bucket", bucket)[0] == 0
    code, found = look(place, "--bind", "127.0.0.1:0")
    assert code == 0 and found["peers"]["seen"] == "1 of 1 answer" and found[f"bucket {bucket}"]["state"] == "ok"
    shutil.rmtree(bucket)
    code, found = look(place, "--bind", "127.0.0.1:0")
    assert code == 0 and "does not hold run" in found[f"bucket {bucket}"]["seen"]


def test_peers_that_answer_or_speak_of_something_else(look: Callable[..., Report], tmp_path: Path) -> None:
    member = Crewman(tmp_path / "volunteer", ["--bind", "127.0.0.1:0"])
    found_cheap_run(member.folder.path)
    new = ("--folder", tmp_path / "new", "--bind", "127.0.0.1:0")
    with Swarm([member]):
        member.start(str(member.folder.path))
        ticket = member.wait_for_ticket()
        code, found = look(ticket, *new)
        assert code == 0 and found["peers"]["seen"] == "1 of 1 answer"
        address = member.folder.statistics()
        assert address is not None and address.num_peers == 0  # nobody remembers the doctor
        code, found = look(encode_ticket(bytes(32), _peer_of(ticket)), *new)
        assert code == 4
        assert "takes part in run" in found[f"peer {_peer_of(ticket).id.hex()[:8]}"]["seen"]


def _peer_of(ticket: str) -> PeerAddress:
    from spikemesh.codec import decode_ticket
    from spikemesh.node import address_of

    return address_of(decode_ticket(ticket)[1])


def test_a_peer_that_is_silent(look: Callable[..., Report], node: RunFolder, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.network.silent_peer", "127.0.0.1:0", node.run_id().hex()]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        ticket = process.stdout.readline().strip()
        code, found = look(ticket, "--folder", tmp_path / "new", "--bind", "127.0.0.1:0")
    finally:
        process.kill()
        process.communicate()
    assert code == 4 and found["peers"]["state"] == "wrong"


def test_a_peer_of_another_protocol(node: RunFolder) -> None:
    async def story() -> list[Any]:
        builder = EndpointBuilder()
        builder.apply_minimal()
        builder.relay_mode(RelayMode.disabled())
        builder.alpns([b"spikemesh/99"])
        builder.bind_addr("127.0.0.1:0")
        other = await builder.bind()

        async def accept() -> None:
            while (incoming := await other.accept_next()) is not None:
                await (await incoming.accept()).connect()

        accepting = asyncio.ensure_future(accept())
        try:
            peer = PeerAddress(id=other.id().to_bytes(), addresses=tuple(other.bound_sockets()[:1]))
            return await network.look("127.0.0.1:0", network.Asked(run_id=node.run_id(), peers=[peer]))
        finally:
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
            await other.close()

    found = {finding.name: finding for finding in asyncio.run(story())}
    assert found["peers"].state == "wrong" and found["peers"].code == 4
    (peer,) = (finding for name, finding in found.items() if name.startswith("peer "))
    assert "another version of spikemesh's protocol" in peer.seen
    assert "Install the version" in found["peers"].advice
