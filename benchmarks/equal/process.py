"""Peers as processes that are asked in lines of JSON, and the run of one vector that ours take part in."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from spikemesh.cli.folder import RunFolder
from spikemesh.codec import write_tensors
from spikemesh.crdt import Genesis, TensorSpec
from spikemesh.node import Identity
from spikemesh.store import Store

OUR_PEER = Path(__file__).parent / "our_peer.py"


class Peer:
    """A process that answers a line of JSON with one. A dead one raises `EOFError`."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(  # type: ignore[call-overload]
            list(map(str, command)), text=True, start_new_session=True, **pipes
        )
        self.hello = self.hear()

    def tell(self, **question: object) -> None:
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
        except BrokenPipeError as error:
            raise EOFError from error

    def hear(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or _end())
        return answer

    def ask(self, **question: object) -> dict[str, Any]:
        self.tell(**question)
        return self.hear()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def kill(self) -> None:
        """With all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _end() -> str:
    raise EOFError


def found_run(folder: Path, num_values: int) -> None:
    """A run whose weights are one vector of zeros, and its founder's folder."""
    start = write_tensors({"theta0": np.zeros(num_values, np.float32)})
    folder.mkdir(parents=True)
    with Store.open(folder) as store:
        store.blobs.put(start)
        identity = Identity.load_or_create(folder)
    RunFolder(folder).set_genesis(
        Genesis(
            name="one vector",
            founder=identity.id,
            model={},
            recipe={},
            tensors=(TensorSpec("values", (num_values,), num_values, False),),
            init_hash=blake3(start).digest(),
            init_bytes=len(start),
        )
    )
