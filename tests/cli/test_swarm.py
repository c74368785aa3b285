"""The commands as a user runs them: real processes, real sockets on loopback, real signals."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from spikemesh.cli.demo.swarm import Swarm, Volunteer, agree
from spikemesh.cli.folder import RunFolder
from spikemesh.codec import read_tensor_file
from spikemesh.errors import StoreBusy
from spikemesh.node import Identity
from spikemesh.store import Store
from tests import hang
from tests.hang import HANG_S
from tests.volunteers.crew import Crewman, until


def spikemesh(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spikemesh", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, **options)  # type: ignore[call-overload, no-any-return]


def volunteer(place: Path, number: int, text: Path) -> Crewman:
    options = ["--data", str(text), "--shard", f"{number % 3 + 1}/3", "--bind", "127.0.0.1:0", "--threads", "1"]
    return Crewman(place / f"node-{number}", options, step_s=None)


def rounds(member: Volunteer) -> int:
    seen = member.statistics()
    return seen.num_own if seen is not None else 0


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("spikemesh: ")
    return lines[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Iterator[Path]:
    """A run that three volunteers trained, one of them killed on the way, and that a fourth joined late."""
    place = tmp_path_factory.mktemp("run")
    made = spikemesh("init", str(place / "node-0"), "--preset", "tiny", "--data", str(text), "--rounds", "16")
    assert made.returncode == 0, made.stderr
    members = [volunteer(place, number, text) for number in range(4)]
    first, second, third, late = members
    with Swarm([*members]):
        for member in (first, second, third):
            member.hold(after=4)  # whoever starts last must not find the run over
        first.start(str(first.folder.path))
        second.start(first.wait_for_ticket())
        third.start(second.wait_for_ticket())
        until(lambda: all(m.is_held for m in (first, second, third)), members)
        second.kill()
        published = rounds(second)
        second.start(str(second.folder.path), forgets=False)
        late.start(third.wait_for_ticket())
        for member in (second, late):
            member.wait_for_ticket()
        for member in members:
            member.let_go()
        until(lambda: agree([m.statistics() for m in members]), members)
        seen = [m.statistics() for m in members]
        assert len({s.digest for s in seen if s}) == 1
        assert rounds(second) >= published
        assert seen[1] is not None and seen[1].num_starts == 2
        assert seen[3] is not None and seen[3].started_from_snapshot
    yield place


def test_all_agree_after_a_kill_and_a_late_join(finished: Path) -> None:
    models = [(finished / f"node-{n}" / "model.safetensors").read_bytes() for n in range(4)]
    assert len(set(models)) == 1  # the same digest, and the same weights to the bit


def test_masked_weights_are_exactly_zero_through_training_merging_and_export(finished: Path) -> None:
    run = RunFolder(finished / "node-0")
    genesis = run.genesis()
    with Store.open(run.path, create=False) as store:
        start = read_tensor_file(store.blobs.get(genesis.init_hash))
    model = read_tensor_file(run.model_path.read_bytes())
    masked = [spec for spec in genesis.tensors if spec.masked]
    assert masked
    for spec in masked:
        bits = np.unpackbits(start[f"mask.{spec.name}"])[: model[spec.name].size].reshape(spec.shape).astype(bool)
        assert bits.sum() == spec.num_coordinates < bits.size
        assert not model[spec.name][~bits].any()


def test_status_and_generate_speak_to_people_and_to_programs(finished: Path) -> None:
    folder = str(finished / "node-1")
    status = json.loads(spikemesh("status", folder, "--json").stdout)
    assert status["volunteer"]["state"] == "done" and len(status["digest"]) == 64
    assert status["digest"] in spikemesh("status", folder, env={**_environment(), "COLUMNS": "200"}).stdout
    texts = [spikemesh("generate", folder, "--prompt", "def ", "--length", "40").stdout for _ in range(2)]
    assert texts[0] == texts[1] and texts[0].startswith("def ")
    file = str(finished / "node-1" / "model.safetensors")
    assert spikemesh("generate", file, "--prompt", "def ", "--length", "40").stdout == texts[0]
    assert json.loads(spikemesh("generate", folder, "--length", "5", "--json").stdout)["prompt"] == "def "


def test_ctrl_c_leaves_with_code_0_and_the_same_command_goes_on(finished: Path, tmp_path: Path, text: Path) -> None:
    shutil.copytree(finished / "node-2", tmp_path / "node")
    digest = RunFolder(finished / "node-2").statistics()
    command = [sys.executable, "-m", "spikemesh", "join", str(tmp_path / "node"), "--data", str(text)]
    for _ in range(2):
        process = subprocess.Popen([*command, "--bind", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = ""
        while "still serving" not in line:
            line = process.stdout.readline()
            assert line, "it ended early"
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=HANG_S)[0]
        assert process.returncode == 0
        assert digest is not None and digest.digest in rest


def test_a_second_process_in_the_same_folder_is_turned_away(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "node-0", tmp_path / "node")
    with Store.open(tmp_path / "node"):
        result = spikemesh("join", str(tmp_path / "node"))
    assert result.returncode == 7
    assert str(tmp_path / "node") in one_line(result)


def test_a_wrong_ticket_is_explained(tmp_path: Path) -> None:
    for ticket in ("nonsense", "spikemesh1abcdef", str(tmp_path / "nowhere")):
        result = spikemesh("join", ticket, "--folder", str(tmp_path / "node"))
        assert result.returncode == 3
        assert "ticket" in one_line(result)
        assert not (tmp_path / "node").exists()
    (tmp_path / "empty").mkdir()
    result = spikemesh("join", str(tmp_path / "empty"))
    assert result.returncode == 3
    assert "spikemesh init" in one_line(result)


def test_a_peer_that_is_gone_is_explained(finished: Path, tmp_path: Path) -> None:
    from spikemesh.codec import encode_ticket
    from spikemesh.transport import PeerAddress

    gone = PeerAddress(id=Identity(bytes(31) + b"\1").id, addresses=("127.0.0.1:9",))
    ticket = encode_ticket(RunFolder(finished / "node-0").run_id(), gone)
    result = spikemesh("join", ticket, "--folder", str(tmp_path / "node"), "--bind", "127.0.0.1:0")
    assert result.returncode == 4
    one_line(result)


def test_a_full_disk_is_explained_and_loses_nothing(tmp_path: Path, text: Path) -> None:
    """The file size limit makes every growing file fail as a full disk does; without it the same command goes on."""
    folder = tmp_path / "node"
    assert spikemesh("init", str(folder), "--preset", "tiny", "--data", str(text)).returncode == 0
    command = ("join", str(folder), "--data", str(text), "--bind", "127.0.0.1:0", "--threads", "1")
    limit = 700 * 1024
    result = spikemesh(*command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert result.returncode == 5, result.stderr
    assert "No space left" in one_line(result)
    with Store.open(folder, create=False) as store:
        before = {row.id for row in store.records()}
    assert before
    process = subprocess.Popen([sys.executable, "-m", "spikemesh", *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "still serving" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=HANG_S)
    with Store.open(folder, create=False) as store:
        after = {row.id for row in store.records()}
    assert before < after


def await_demo(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    hang.until(lambda: condition() or process.poll() is not None, lambda: "the demo goes on")
    assert process.poll() is None, process.communicate()


def _damage_a_record(folder: Path) -> None:
    with Store.open(folder, create=False) as store:
        wire = next(store.records()).wire
    _flip(folder / "node.sqlite", wire)


def _damage_the_start(folder: Path) -> None:
    name = RunFolder(folder).genesis().init_hash.hex()
    _flip(folder / "blobs" / name[:2] / name)


def _damage_the_genesis(folder: Path) -> None:
    _flip(folder / "genesis.msgpack")


def _cut_the_key(folder: Path) -> None:
    (folder / "identity.key").write_bytes((folder / "identity.key").read_bytes()[:-1])


def _flip(path: Path, within: bytes | None = None) -> None:
    """Invert 16 bytes in the middle of a file, or of a part of it."""
    data = bytearray(path.read_bytes())
    start, length = (0, len(data)) if within is None else (data.index(within[:64]), 64)
    middle = start + length // 2
    data[middle : middle + 16] = bytes(byte ^ 0xFF for byte in data[middle : middle + 16])
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_damage_a_record, _damage_the_start, _damage_the_genesis, _cut_the_key])
def test_a_corrupted_store_is_explained(finished: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "node"
    shutil.copytree(finished / "node-1", folder)
    damage(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*.safetensors")}
    result = spikemesh("join", str(folder), "--bind", "127.0.0.1:0")
    assert result.returncode == 6, (result.returncode, result.stderr)
    one_line(result)
    assert before == {path: path.read_bytes() for path in folder.rglob("*.safetensors")}


@pytest.mark.long
def test_the_demo_stops_in_order_and_goes_on(tmp_path: Path, text: Path) -> None:
    command = [sys.executable, "-m", "spikemesh", "demo", "--preset", "tiny", "--data", str(text), "--folder"]
    process = subprocess.Popen([*command, str(tmp_path / "demo")], stdout=subprocess.PIPE, text=True)
    first = RunFolder(tmp_path / "demo" / "volunteer-1")
    await_demo(process, lambda: (seen := first.statistics()) is not None and seen.num_own >= 2)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=HANG_S)[0]
    assert process.returncode == 130
    assert "same command goes on" in out
    again = subprocess.run([*command, str(tmp_path / "demo")], capture_output=True, text=True, timeout=HANG_S)
    assert again.returncode == 0, again.stderr
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert report["digests_equal"] and len(report["nodes"]) == 5
    assert {len(node["digest"]) for node in report["nodes"]} == {64}
    for key in ("density", "spike_rate", "train_seconds", "peak_rss_bytes"):
        assert report[key]
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000


def test_volunteers_leave_when_the_demo_is_killed(tmp_path: Path, text: Path) -> None:
    """SIGKILL gives the demo no chance to stop them; they must not go on alone and hold their folders."""
    command = [sys.executable, "-m", "spikemesh", "demo", "--preset", "tiny", "--data", str(text), "--folder"]
    process = subprocess.Popen([*command, str(tmp_path / "demo")], stdout=subprocess.DEVNULL)
    folders = [RunFolder(tmp_path / "demo" / f"volunteer-{number}") for number in (1, 2, 3, 4)]
    await_demo(process, lambda: None not in [folder.statistics() for folder in folders])  # all are up
    process.kill()
    process.wait()
    held = {folder.path for folder in folders}

    def all_left() -> bool:
        for path in list(held):
            with contextlib.suppress(StoreBusy), Store.open(path, create=False):
                held.remove(path)
        return not held

    hang.until(all_left, lambda: held)


def test_help_answers_without_torch() -> None:
    code = "import sys, spikemesh.cli; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=HANG_S).returncode == 0
    result = spikemesh("--help")
    assert result.returncode == 0 and "Exit codes" in result.stdout


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)
