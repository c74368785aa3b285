"""Page faults of a step of dense training, counted: with the setting, a step takes no pages that an earlier one had."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Coroutine
from importlib import import_module
from pathlib import Path

import pytest

from spikemesh.cli.folder import RunFolder
from tests.machine import cannot

join_module = import_module("spikemesh.cli.join")

PROGRAM = """
import json, resource, sys, threading
from spikemesh.allocator import keep_freed_memory
if "keep" in sys.argv and not keep_freed_memory():
    print("null")
    sys.exit()
started = threading.Event()
other = threading.Thread(target=started.wait, daemon=True)  # as the network's threads run beside training
other.start()

import torch
torch.set_num_threads(1)
torch.manual_seed(0)
ROWS = 272 * 1024  # of 64 float32: 68 MiB, above what an arena of a thread can hold
model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
optimiser, x, faults = torch.optim.AdamW(model.parameters()), torch.randn(ROWS, 8), []

def train():
    for _ in range(7):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        optimiser.zero_grad()
        model(x).square().mean().backward()
        optimiser.step()
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

if "thread" in sys.argv:
    worker = threading.Thread(target=train)
    worker.start()
    worker.join()
else:
    train()
started.set()
print(json.dumps(faults))
"""

TENSOR_PAGES = 68 * 256
"""Of 4 KiB, of one hidden layer's activations."""


def faults_per_step(*words: str) -> float:
    """The median of the last steps'. The allocator has then seen every size in every order."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True)
    faults = json.loads(done.stdout)
    if faults is None:
        cannot("has another C library than glibc")
    return statistics.median(faults[2:])


@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_step_takes_no_pages_that_an_earlier_one_had(where: str) -> None:
    assert faults_per_step("keep", where) < TENSOR_PAGES / 10


def test_without_the_setting_every_step_pays_for_its_tensors_again() -> None:
    """Otherwise the test above proves nothing, and the setting can go."""
    if sys.platform != "linux":
        cannot("has another C library than glibc")
    assert faults_per_step("thread") > 2 * TENSOR_PAGES


HUGE = """
import sys
import torch
from spikemesh.allocator import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()
tensor = torch.ones(1 << 24)
lines = open("/proc/self/smaps").read().splitlines()
print(sum(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:")))
"""


@pytest.mark.parametrize("keep", [True, False])
def test_large_tensors_lie_in_huge_pages(keep: bool) -> None:
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or "[madvise]" not in enabled.read_text():
        cannot("does not give huge pages to those who ask for them, and to them alone")
    words = ["keep"] if keep else []
    done = subprocess.run([sys.executable, "-c", HUGE, *words], capture_output=True, text=True, check=True)
    assert (int(done.stdout) > 32 << 10) == keep


def test_a_volunteer_sets_it_before_the_network_starts_its_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def network(coroutine: Coroutine[None, None, None]) -> None:
        coroutine.close()
        order.append("network")

    monkeypatch.setattr(join_module, "keep_freed_memory", lambda: order.append("memory"))
    monkeypatch.setattr(join_module.asyncio, "run", network)
    monkeypatch.setattr(join_module.RunFolder, "existing", lambda path: RunFolder(path))
    join_module.join(str(tmp_path))
    assert order == ["memory", "network"]
