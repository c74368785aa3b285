"""Starts volunteers as a fork of a process that has imported everything, so that hundreds of lives fit into a minute.

Each is a process of its own, in a session of its own, that runs `spikemesh join` from the top: real store, real
sockets, real signals; only the trainee is a cheap one. `faults.c` is preloaded, and every life may be armed with a
fault at its n-th call that changes the disk, and gets its time of day set forward and back.

Reads a `Life` or a `Signal` as JSON per line on standard input; writes `[name, "started", pid]` and `[name, "ended",
status]`. It sends the signals itself, since only who reaps a process knows that its number is still its own.
"""

from __future__ import annotations

import ctypes
import os
import random
import selectors
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import msgspec

import spikemesh.cli.session  # noqa: F401  imported once for all lives
from spikemesh.cli import main
from tests.volunteers.join import Cheap, instrument

STEP_S = 0.01
CLOCK_GAP_S = 0.1
LONGEST_MOMENT_S = 0.05
MOMENT = -2
FARTHEST_JUMP_S = 10 * 365 * 86_400


class Signal(msgspec.Struct, frozen=True, tag=True):
    name: str
    number: int


class Life(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One start of the volunteer in `folder`. `fault` strikes at call `at`: an errno, 0 to be killed, -1 to be killed
    in the middle of a write, `MOMENT` to be killed at any moment after it; `keeps_failing` from there on. A life is
    measured in calls, since a slow machine would fit nothing into one that is measured in seconds."""

    name: str
    folder: str
    run: str
    seed: int
    at: int = 0
    fault: int = 0
    keeps_failing: bool = False
    clock_jumps: bool = True


def live(life: Life, until_gone: int) -> None:
    """In the forked process: become that volunteer. `until_gone` is a pipe that ends with the nursery."""
    os.setsid()
    log = os.open(f"{life.folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for target, source in ((0, until_gone), (1, log), (2, log)):
        os.dup2(source, target)
    faults = ctypes.CDLL(None)
    if life.clock_jumps:
        threading.Thread(target=_jump_forever, args=(faults, random.Random(life.seed)), daemon=True).start()
    Cheap.step_s = STEP_S
    instrument(cheap=True)
    sys.argv = ["spikemesh", "join", life.run, "--bind", "127.0.0.1:0", "--seed", str(life.seed % 1000)]
    sys.argv.append("--leave-at-eof")
    if life.run != life.folder:
        sys.argv += ["--folder", life.folder]
    if life.fault == MOMENT:
        faults.faults_arm(ctypes.c_long(0), 0, False)
        threading.Thread(target=_die_after, args=(faults, life.at, random.Random(life.seed)), daemon=True).start()
    else:
        faults.faults_arm(ctypes.c_long(life.at), life.fault, life.keeps_failing)
    main()


def _die_after(faults: ctypes.CDLL, num_calls: int, rng: random.Random) -> None:
    """At whatever the other threads do then."""
    faults.faults_calls.restype = ctypes.c_long
    while faults.faults_calls() < num_calls:
        time.sleep(0.001)
    time.sleep(rng.uniform(0.0, LONGEST_MOMENT_S))
    os.kill(os.getpid(), signal.SIGKILL)


def _jump_forever(faults: ctypes.CDLL, rng: random.Random) -> None:
    """Not a step per second: to another year and back."""
    while True:
        faults.faults_jump(ctypes.c_long(rng.randint(-FARTHEST_JUMP_S, FARTHEST_JUMP_S)))
        time.sleep(CLOCK_GAP_S)


def start(life: Life, until_gone: tuple[int, int]) -> int:
    Path(life.folder).parent.mkdir(parents=True, exist_ok=True)
    if (pid := os.fork()) != 0:
        return pid
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        os.close(until_gone[1])
        live(life, until_gone[0])
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    until_gone = os.pipe()
    wakeup_read, wakeup_write = os.pipe()
    os.set_blocking(wakeup_write, False)
    signal.set_wakeup_fd(wakeup_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    pids: dict[str, int] = {}
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(wakeup_read, selectors.EVENT_READ)
    unread = b""
    while True:
        for key, _ in selector.select():
            data = os.read(key.fd, 65_536)
            if key.fd == wakeup_read:
                continue
            if not data:  # whoever asked is gone, so nobody may be left
                for pid in pids.values():
                    os.kill(pid, signal.SIGKILL)
                return
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                match msgspec.json.decode(line, type=Life | Signal):
                    case Life() as life:
                        pids[life.name] = start(life, until_gone)
                        _say(life.name, "started", pids[life.name])
                    case Signal(name=name, number=number) if name in pids:
                        os.kill(pids[name], number)
        for name, pid in [*pids.items()]:
            if (ended := os.waitpid(pid, os.WNOHANG))[0]:
                del pids[name]
                _say(name, "ended", ended[1])


def _say(name: str, event: str, number: int) -> None:
    os.write(1, msgspec.json.encode([name, event, number]) + b"\n")


if __name__ == "__main__":
    serve()
