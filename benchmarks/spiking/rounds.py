"""Several programs timed in turn, each in a process of its own that stays.

A worker prints a line of JSON with facts when it is ready, and then one for each line that it reads: the seconds of one
step. All workers have their n-th turn before any has its next one, so what else the machine does falls on all of them.
A turn is two steps, and the second one counts: while others had theirs, caches, and on some machines pages, were taken
away. Seconds are the process's CPU time, wall time where a worker has several threads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from spikemesh.cli.progress import progress_text

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1)}
"""Freed memory stays with the process. Otherwise whoever allocates more is timed on the system's page faults."""


class Worker:
    """A program that answers; `with` it, and it ends."""

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **KEEP_MEMORY, **(environment or {})},
        )
        self.facts = self._answer()

    def step(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        return self._answer()

    def turn(self) -> list[dict[str, Any]]:
        """A step that does not count, and one that does."""
        return [self.step() | {"counts": False}, self.step() | {"counts": True}]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!s:.300} ended with {self._process.wait()}; its errors stand above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def in_turn(
    makers: Mapping[str, Callable[[], Worker]], rounds: int, *, warm_up: int = 1
) -> dict[str, list[dict[str, Any]]]:
    """What each worker answered to the steps of `rounds` turns, after `warm_up` turns that are left out."""
    with ExitStack() as stack:
        workers = {name: stack.enter_context(make()) for name, make in makers.items()}
        for worker in [*workers.values()] * warm_up:
            worker.turn()
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
        start_s = time.monotonic()
        for number in range(rounds):
            for name, worker in workers.items():
                answers[name] += worker.turn()
            spent_s = time.monotonic() - start_s
            print(progress_text("in turn", number + 1, rounds, "rounds", spent_s), file=sys.stderr, flush=True)
    return answers


def seconds_of(answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[float]]:
    return {name: [answer["seconds"] for answer in given if answer["counts"]] for name, given in answers.items()}
