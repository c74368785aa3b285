"""Killed at any call, out of space at any call: what was acknowledged is there, and the same calls go on."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from blake3 import blake3
from tests.hang import HANG_S
from tests.machine import faults_library
from tests.store import killed_worker
from tests.store.samples import row

from spikemesh.store import Store

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faults_library(tmp_path_factory.mktemp("faults"))


def run_crash(faults: Path, mode: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.crash", mode, folder.parent],
        cwd=ROOT,
        env=os.environ | {"LD_PRELOAD": str(faults)},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("mode", ["kill", "torn"])
def test_killed_at_any_call_nothing_acknowledged_is_lost(faults: Path, mode: str, folder: Path) -> None:
    assert int(run_crash(faults, mode, folder)) > 100


@pytest.mark.parametrize("mode", ["EIO", "ENOSPC", "EIO+", "ENOSPC+", "EDQUOT+", "EFBIG+"])
def test_an_error_at_any_call_changes_nothing_and_the_same_call_succeeds_later(
    faults: Path, mode: str, folder: Path
) -> None:
    num_calls, num_failed = map(int, run_crash(faults, mode, folder).split())
    assert num_calls > 100
    assert num_failed > 0.8 * num_calls  # the rest failed where SQLite may ignore it, as in a checkpoint


def test_everything_written_is_synced_before_it_is_acknowledged(faults: Path, folder: Path) -> None:
    """What a power cut would show, also soon after a kill and a restart: no unsynced bytes behind a name, no unsynced
    name behind an acknowledgement."""
    unsynced: set[str] = set()
    num_acknowledged = num_runs = 0
    for line in run_crash(faults, "trace", folder).splitlines():
        call, path, target = line.split(" ")
        parent = str(Path(path).parent)
        if call == "new":
            unsynced.clear()
            num_runs += 1
        elif call == "write":
            unsynced.add(path)
        elif call == "sync":
            unsynced.discard(path)
        elif call in ("create", "mkdir") and not path.endswith(".unfinished"):  # such a name may well be lost
            unsynced.add(parent)
        elif call == "unlink":
            unsynced.discard(path)
            assert path.removesuffix("-wal").removesuffix("-journal") not in unsynced, f"{line}: still needed"
        elif call == "rename":
            assert path not in unsynced, f"{line}: its bytes may still be missing"
            unsynced.add(str(Path(target).parent))
        elif call == "acknowledge":
            num_acknowledged += 1
            missing = {name for name in unsynced if not name.endswith("node.sqlite")}  # SQLite's logs stand for that
            assert not missing, f"run {num_runs}, {path}: acknowledged before {missing} is synced"
    assert num_runs > 100
    assert num_acknowledged >= 13 * num_runs


def test_killed_at_random_moments_and_restarted(folder: Path) -> None:
    """A separate process works on; SIGKILL comes some records later, whenever it comes. Seeds 0..7 choose when."""
    num_done = 0
    for seed in range(8):
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.store.killed_worker", folder], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert worker.stdout is not None
        worker.stdout.readline()  # it has opened the store
        rng = random.Random(seed)
        for _ in range(rng.randint(0, 5)):
            worker.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.02))
        worker.kill()
        with contextlib.closing(worker.stdout) as lines:
            num_done = max([num_done, *(int(line) for line in lines.read().split(b"\n")[:-1])])
        worker.wait()
        num_done = check_after_kill(folder, num_done)
    assert num_done > 8


def check_after_kill(folder: Path, num_acknowledged: int) -> int:
    with Store.open(folder) as store:
        num_records = len(list(store.records()))
        assert num_records in (num_acknowledged, num_acknowledged + 1)
        assert list(store.records()) == [row(number) for number in range(1, num_records + 1)]
        for number in range(1, num_records + 1):
            store.blobs.get(blake3(killed_worker.blob(number)).digest())
        saved = store.load_sum()
        num_folded = len(saved.folded_ids) if saved else 0
        assert num_records - num_folded <= killed_worker.SAVE_EVERY
        assert saved == killed_worker.sum_after(num_folded)
        assert int(store.get_value("seq") or b"0") in (num_records, num_records + 1)
        return num_records
