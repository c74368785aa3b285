"""Who may import whom, and why: every file of the package is read as a syntax tree, nothing is run.
from tests.hang import HANG_S

The table is that of the design: a room imports the rooms named for it, and no other. It is what lets a thousand nodes
run without torch, training run without a network, and the merge be tested with nothing around it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hang import HANG_S

PACKAGE = Path(__file__).parent.parent / "src" / "spikemesh"


@dataclass(frozen=True)
class Room:
    """What a room may import: rooms (their public names or files), packages from outside; and what it is for."""

    why: str
    rooms: frozenset[str] = frozenset()
    packages: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()
    """Packages that only a function may import, when it is called."""


def _room(why: str, rooms: str = "", packages: str = "", late: str = "") -> Room:
    return Room(why, *(frozenset(names.split()) for names in (rooms, packages, late)))


EVERYWHERE = "torch numpy safetensors iroh blake3 cryptography msgspec typer rich matplotlib fsspec"

ROOMS: Mapping[str, Room] = {
    "kernels": _room("compiled loops over plain arrays know nothing of the rest", "", "numpy"),
    "crdt": _room("the merge is pure: it stands on arrays and hashes alone", "kernels", "numpy msgspec blake3"),
    "codec": _room(
        "bytes in and out of the merge's values, without a disk or a network",
        "crdt kernels files",
        "numpy msgspec blake3 cryptography safetensors",
    ),
    "files": _room("how files are written and fail is said once, below all who have some"),
    "store": _room("the store is what I hold; what the bytes mean is decided above it", "files", "blake3"),
    "transport": _room(
        "the transport is how bytes reach others; what they mean is decided above it", "", "iroh fsspec"
    ),
    "snn": _room(
        "neurons and layers know of no delta, network or disk",
        "kernels progress",
        "numpy torch safetensors triton",
        "nir",
    ),
    "train": _room("training runs without a network", "allocator progress snn codec", "numpy torch"),
    "checkpoint": _room(
        "merging files needs no torch; only reading a .pt file does, late",
        "kernels files progress",
        "numpy safetensors blake3 xxhash msgspec",
        "torch",
    ),
    "node": _room(
        "a node runs without torch, so that a thousand simulated ones are cheap; it is handed its trainee",
        "crdt codec files store transport",
        "numpy msgspec blake3 cryptography",
    ),
    "sim": _room("the simulation runs real nodes", "node crdt codec store transport", "numpy blake3"),
    "dashboard": _room("the dashboard reads nothing but a node's statistics", "node", "starlette uvicorn msgspec"),
    "cli": _room(
        "the command line is the one room that wires the others together",
        "allocator progress kernels crdt codec files store transport snn train checkpoint node sim dashboard",
        EVERYWHERE,
        "nir",
    ),
    "allocator": _room("how memory is kept is a matter of processes, not of what they work on"),
    "progress": _room("who works says how far it is; who shows it stands far above"),
    "errors": _room("the error tree stands below everything"),
    "__init__": _room("importing the package must cost nothing: it would be paid by every room", "checkpoint"),
    "__main__": _room("python -m spikemesh is the command line", "cli"),
}

PURE_STDLIB = frozenset(
    [
        "__future__",
        "abc",
        "bisect",
        "collections",
        "dataclasses",
        "enum",
        "functools",
        "heapq",
        "itertools",
        "math",
        "operator",
        "struct",
        "types",
        "typing",
    ]
)
"""What the merge may use: nothing that sees a file, a socket, a clock, a thread or randomness."""

ASYNC_ROOMS = frozenset({"node", "transport", "sim", "cli"})

UNSAFE = frozenset(["pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"])

FORBIDDEN_CALLS = {
    "torch.load": "torch.load runs pickle; tensors come from safetensors, or through checkpoint/torch_file.py",
    "torch.save": "torch.save writes pickle; tensors go into safetensors",
    "numpy.load": "numpy.load can run pickle; tensors come from safetensors",
}

GUARDED_CALLS = frozenset({("checkpoint/torch_file.py", "torch.load")})
"""People have .pt files. The one reader of them uses `weights_only`, torch's unpickler of tensors and nothing else."""

IMPURE_CALLS = frozenset({"open", "print", "input", "exec", "eval", "__import__", "hash", "id"})
"""`hash` of bytes differs between processes and `id` between runs, so both are randomness to a merge."""


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    late: bool

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


def imports(tree: ast.Module, module: str) -> Iterator[Import]:
    """Every module that is imported anywhere in the file, by its full name; also by `import_module("...")`.

    `from spikemesh import crdt` is `spikemesh.crdt`. `module` is the full name of the package that the file lies in.
    """
    late = {id(node) for function in ast.walk(tree) if _is_function(function) for node in ast.walk(function)}
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom():
                parents = module.split(".")[: len(module.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*parents, *([node.module] if node.module else [])])
                names = [f"{base}.{alias.name}" for alias in node.names] if base == "spikemesh" else [base]
            case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]) if _dotted(func).endswith(
                ("import_module", "__import__")
            ):
                names = [name]
            case _:
                continue
        for name in names:
            yield Import(name, node.lineno, id(node) in late)


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def _dotted(node: ast.AST) -> str:
    """`a.b.c` as text; an expression in front counts as nothing."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            return f"{_dotted(value)}.{attr}".lstrip(".")
        case _:
            return ""


def violations(source: str, path: str) -> list[str]:
    """What a file at `path` inside the package does against the table, each with its line and the reason."""
    parts = Path(path).with_suffix("").parts
    room, package = parts[0], ".".join(("spikemesh", *parts[:-1]))
    if room not in ROOMS:
        return [f"{path}: the design names no room {room!r}; add it to the design and to this table, or move the file"]
    tree = ast.parse(source)
    found = [*_import_violations(tree, path, package), *_call_violations(tree, room, path)]
    return [f"{path}:{line}: {text}" for line, text in sorted(found)]


def _import_violations(tree: ast.Module, path: str, package: str) -> Iterator[tuple[int, str]]:
    room = Path(path).with_suffix("").parts[0]
    rule = ROOMS[room]
    for item in imports(tree, package):
        if item.top in UNSAFE:
            yield item.line, f"imports {item.module}: it runs code from data, and no bytes from outside are trusted"
        elif item.top == "spikemesh":
            target = item.module.split(".")[1] if "." in item.module else "__init__"
            is_own = target in (room, "errors", "__init__") or target.startswith("__version__")
            if target in ROOMS and not is_own and target not in rule.rooms:
                allowed = ", ".join(sorted(rule.rooms)) or "no other room"
                yield item.line, f"{room} imports {item.module}, but may import {allowed}: {rule.why}"
        elif item.top in sys.stdlib_module_names:
            yield from _stdlib_violations(item, room, path)
        elif item.top not in rule.packages and not (item.late and item.top in rule.late):
            allowed = ", ".join(sorted(rule.packages)) or "no package from outside"
            late = f" (and {', '.join(sorted(rule.late))} inside a function)" if rule.late else ""
            yield item.line, f"{room} imports {item.module}, but may import {allowed}{late}: {rule.why}"


def _stdlib_violations(item: Import, room: str, path: str) -> Iterator[tuple[int, str]]:
    if room == "crdt" and item.top not in PURE_STDLIB:
        yield item.line, f"crdt imports {item.module}: the merge sees no file, socket, clock, thread or randomness"
    elif room == "node" and item.top in ("time", "datetime", "secrets") and path != "node/clock.py":
        yield (
            item.line,
            f"node imports {item.module}: a node is handed its clock and rng, so that a run can be repeated",
        )
    elif item.top == "asyncio" and room not in ASYNC_ROOMS:
        yield item.line, f"{room} imports asyncio: only node and transport are async, and sim and cli to run them"


def _call_violations(tree: ast.Module, room: str, path: str) -> Iterator[tuple[int, str]]:
    aliases = _aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            head, _, rest = _dotted(node).partition(".")
            name = f"{aliases.get(head, head)}.{rest}".rstrip(".")
            if name in FORBIDDEN_CALLS and (path, name) not in GUARDED_CALLS:
                yield node.lineno, f"uses {name}: {FORBIDDEN_CALLS[name]}"
            if room == "node" and name.startswith("random.") and name != "random.Random":
                yield (
                    node.lineno,
                    f"node uses {name}: a node is handed its clock and rng, so that a run can be repeated",
                )
            if room == "crdt" and name.startswith("numpy.random"):
                yield node.lineno, "crdt uses numpy.random: no randomness is in the merge"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield node.value.lineno, "passes allow_pickle: no pickle is ever loaded"
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if room == "crdt" and is_call and node.func.id in IMPURE_CALLS and not _inside_hash(tree, node):
            yield node.lineno, f"crdt calls {node.func.id}: the merge is a function of its arguments and nothing else"


def _aliases(tree: ast.Module) -> dict[str, str]:
    """Local name -> what it was imported as: np -> numpy, load -> torch.load."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update((alias.asname, alias.name) for alias in node.names if alias.asname)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
    return names


def _inside_hash(tree: ast.Module, call: ast.Call) -> bool:
    """Python's own protocol for dictionary keys is the one place for `hash`."""
    return any(
        isinstance(node, ast.FunctionDef) and node.name == "__hash__" and call in ast.walk(node)
        for node in ast.walk(tree)
    )


FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def test_the_package_is_found() -> None:
    assert {"errors.py", "crdt/replica.py"} <= set(FILES)


@pytest.mark.parametrize("path", FILES)
def test_imports(path: str) -> None:
    found = violations((PACKAGE / path).read_text(encoding="utf-8"), path)
    assert not found, "\n".join(found)


def test_rooms_have_no_cycle() -> None:
    """Everything can be put in an order in which each room imports only earlier ones."""
    left = {name: set(room.rooms) for name, room in ROOMS.items()}
    while left:
        ready = {name for name, needs in left.items() if not needs & left.keys()}
        assert ready, f"these rooms import each other: {sorted(left)}"
        for name in ready:
            del left[name]


# The walker tested: each of these lines must be caught, in the file it stands in, for the reason given.

CAUGHT = [
    ("crdt/x.py", "import os", "no file, socket, clock"),
    ("crdt/x.py", "import io", "no file, socket, clock"),
    ("crdt/x.py", "from pathlib import Path", "no file, socket, clock"),
    ("crdt/x.py", "import socket", "no file, socket, clock"),
    ("crdt/x.py", "from time import monotonic", "no file, socket, clock"),
    ("crdt/x.py", "def f():\n    import random", "no file, socket, clock"),
    ("crdt/x.py", "import secrets", "no file, socket, clock"),
    ("crdt/x.py", "import threading", "no file, socket, clock"),
    ("crdt/x.py", "import asyncio", "no file, socket, clock"),
    ("crdt/x.py", "import numpy as np\nnp.random.default_rng()", "no randomness"),
    ("crdt/x.py", "from numpy import random\nrandom.random()", "no randomness"),
    ("crdt/x.py", "open('x')", "function of its arguments"),
    ("crdt/x.py", "def f(x):\n    return hash(x)", "function of its arguments"),
    ("crdt/x.py", "from spikemesh.codec import decode_record", "may import kernels"),
    ("crdt/x.py", "from ..store import Store", "may import kernels"),
    ("crdt/x.py", "from .. import store", "may import kernels"),
    ("crdt/x.py", "import torch", "may import blake3, msgspec, numpy"),
    ("codec/x.py", "from spikemesh import node", "may import crdt, files, kernels"),
    ("codec/x.py", "import spikemesh.transport.memory as m", "may import crdt, files, kernels"),
    ("codec/x.py", "import asyncio", "only node and transport are async"),
    ("store/x.py", "from spikemesh.crdt import Record", "may import files"),
    ("store/x.py", "if True:\n    import torch.nn", "may import blake3"),
    ("transport/x.py", "from spikemesh.codec import Message", "how bytes reach others"),
    ("transport/x.py", "import torch", "how bytes reach others"),
    ("snn/x.py", "from spikemesh.train import Trainee", "neurons and layers"),
    ("train/x.py", "from spikemesh.transport import Transport", "without a network"),
    ("train/x.py", "from spikemesh.node import Node", "without a network"),
    ("node/x.py", "def f():\n    import torch", "a node runs without torch"),
    ("node/x.py", "from spikemesh.train import Trainee", "a node runs without torch"),
    ("node/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import spikemesh.snn", "without torch"),
    ("node/x.py", "import importlib\nimportlib.import_module('spikemesh.train')", "a node runs without torch"),
    ("node/x.py", "from importlib import import_module\nimport_module('torch')", "a node runs without torch"),
    ("node/x.py", "import time", "handed its clock"),
    ("node/x.py", "import random\nrandom.shuffle([])", "handed its clock and rng"),
    ("node/x.py", "from random import choice\nchoice([])", "handed its clock and rng"),
    ("checkpoint/x.py", "import torch", "torch inside a function"),
    ("checkpoint/x.py", "import torch\ndef f():\n    pass", "only reading a .pt file"),
    ("train/x.py", "import spikemesh.cli", "without a network"),
    ("node/x.py", "from spikemesh.cli import main", "handed its trainee"),
    ("errors.py", "import spikemesh.crdt", "no other room"),
    ("__init__.py", "from spikemesh.crdt import Record", "must cost nothing"),
    ("__init__.py", "from .train import Trainee", "must cost nothing"),
    ("cli/x.py", "import pickle", "runs code from data"),
    ("train/x.py", "from pickle import loads", "runs code from data"),
    ("train/x.py", "import torch\ntorch.load('x')", "torch.load runs pickle"),
    ("train/x.py", "import torch as t\nload = t.load", "torch.load runs pickle"),
    ("checkpoint/x.py", "def f():\n    import torch\n    torch.load('x', weights_only=True)", "torch.load runs pickle"),
    ("train/x.py", "from torch import load as read\nread('x')", "torch.load runs pickle"),
    ("train/x.py", "import torch\ntorch.save({}, 'x')", "torch.save writes pickle"),
    ("train/x.py", "import numpy as np\nnp.load('x')", "numpy.load can run pickle"),
    ("codec/x.py", "f('x', allow_pickle=True)", "no pickle is ever loaded"),
    ("cli/x.py", "import torchvision", "wires the others"),
    ("helpers/x.py", "import math", "names no room 'helpers'"),
    ("utils.py", "import math", "names no room 'utils'"),
]


@pytest.mark.parametrize(("path", "source", "reason"), CAUGHT)
def test_walker_catches(path: str, source: str, reason: str) -> None:
    found = violations(source, path)
    assert any(reason in text for text in found), found


FINE = [
    ("crdt/x.py", "import numpy as np\nfrom spikemesh.crdt.records import Record\nfrom . import orset\nimport math"),
    ("crdt/x.py", "class A:\n    def __hash__(self):\n        return hash(self.digest)"),
    ("crdt/x.py", "from spikemesh.errors import InvalidData\nfrom spikemesh import errors, kernels"),
    ("checkpoint/x.py", "def f():\n    import torch"),
    ("checkpoint/torch_file.py", "def f():\n    import torch\n    torch.load('x', weights_only=True)"),
    ("node/x.py", "import asyncio\nimport random\nfrom spikemesh import __version__, transport"),
    ("cli/x.py", "import asyncio, torch, rich\nfrom ..train import data\nfrom spikemesh.cli.run import f"),
    ("__main__.py", "from spikemesh.cli import main"),
    ("train/x.py", "import torch\ntorch.nn.Module.load_state_dict"),
    ("node/clock.py", "import time\ntime.monotonic()"),
    ("node/x.py", "import random\ndef f(rng: random.Random): rng.random()"),
]


@pytest.mark.parametrize(("path", "source"), FINE)
def test_walker_lets_pass(path: str, source: str) -> None:
    assert violations(source, path) == []


# What the syntax tree cannot see: what is really loaded.

TORCH_FREE = [
    room
    for room in ("kernels", "crdt", "codec", "store", "transport", "checkpoint", "node", "sim")
    if (PACKAGE / room / "__init__.py").exists()
]


def test_no_torch_below_training() -> None:
    code = (
        "import importlib, sys\n"
        f"for room in {TORCH_FREE!r}:\n"
        "    importlib.import_module('spikemesh.' + room)\n"
        "    assert 'torch' not in sys.modules, f'spikemesh.{room} loads torch; a node must start without it'\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=False)
    assert result.returncode == 0, result.stderr


def test_importing_the_package_costs_nothing() -> None:
    code = (
        "import sys, spikemesh\n"
        "assert not {'numpy', 'torch', 'spikemesh.checkpoint'} & set(sys.modules)\n"
        "assert callable(spikemesh.merge) and 'torch' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=False)
    assert result.returncode == 0, result.stderr


def test_the_merge_loads_no_network_or_event_loop() -> None:
    code = (
        "import sys, logging, numpy, msgspec, blake3\n"  # logging, in which the kernels say if they are missing
        "before = set(sys.modules)\n"
        "import spikemesh.crdt\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "bad = new & {'asyncio', 'socket', 'ssl', 'sqlite3', 'threading', 'random', 'secrets', 'subprocess'}\n"
        "assert not bad, f'importing the merge loads {sorted(bad)}'\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=False)
    assert result.returncode == 0, result.stderr
