"""Files from outside: everything in `attacks/`, every cut, changed bytes, pipes and devices.

The only answers are a checkpoint that can be read to its end, and a named error. Nothing runs, nothing waits, and no
more memory is taken than the file has bytes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spikemesh.checkpoint import inspect, merge, open_checkpoint, torch_file, verify
from spikemesh.checkpoint.opening import MAX_INDEX_BYTES
from spikemesh.errors import CheckpointError, InvalidData
from tests.checkpoint.attacks import archives, tables
from tests.checkpoint.files import f32, i64, write_safetensors, write_shards

NAMES = {"table": "a.safetensors", "archive": "a.pt"}
GOOD = {"table": tables.packed(tables.GOOD), "archive": archives.GOOD}


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails where something would wait for ever."""

    def fail(*_: object) -> None:
        raise AssertionError(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def survives(path: Path, data: bytes) -> bool:
    """True if the file was read to its end. Any error but ours is a failure."""
    path.write_bytes(data)
    try:
        inspect(path)
    except (InvalidData, CheckpointError) as error:
        assert path.name in str(error) and 20 < len(str(error)) < 2000
        return False
    return True


ATTACKS = [
    pytest.param(kind, data, id=name)
    for kind, found in (("table", tables.attacks()), ("archive", archives.attacks()))
    for name, data in found
]


@pytest.mark.parametrize(("kind", "data"), ATTACKS)
def test_attack_is_refused(kind: str, data: bytes, folder: Path) -> None:
    path = folder / NAMES[kind]
    with within(10):
        assert not survives(path, data)
        with pytest.raises((InvalidData, CheckpointError)):
            merge([path], out=folder / "out.safetensors")
    assert not (folder / "out.safetensors").exists()


@pytest.mark.parametrize("kind", NAMES)
def test_the_good_one_is_read(kind: str, folder: Path) -> None:
    assert survives(folder / NAMES[kind], GOOD[kind])


@pytest.mark.parametrize("kind", NAMES)
def test_no_cut_is_read(kind: str, folder: Path) -> None:
    for length in range(len(GOOD[kind])):
        assert not survives(folder / NAMES[kind], GOOD[kind][:length]), length


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("flip", [0xFF, 0x01])
def test_changed_bytes(kind: str, flip: int, folder: Path) -> None:
    """Each is refused or is another checkpoint. There is no checksum in these formats; `verify` is for that."""
    good, step = GOOD[kind], 1 if kind == "table" else 3
    results = set()
    for position in range(0, len(good), step):
        data = bytearray(good)
        data[position] ^= flip
        results.add(survives(folder / NAMES[kind], bytes(data)))
    assert results == {True, False}


def test_mutations_of_a_table(folder: Path) -> None:
    good, rng = GOOD["table"], random.Random(0)
    for _ in range(500):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            start = rng.randrange(len(data))
            data[start : start + rng.choice((0, 1, 4))] = rng.choice(
                (b"", b"0", b"9", b"[", b"}", b'"', rng.randbytes(3))
            )
        survives(folder / NAMES["table"], bytes(data))


@pytest.mark.filterwarnings("ignore")  # torch's, of what it reads
def test_nothing_in_a_file_is_ever_run(folder: Path) -> None:
    marker = folder / "was-run"
    archives.Command(marker).__reduce__()[0](f"touch {marker}")
    assert marker.exists()  # so it would be seen
    marker.unlink()
    for number, (name, data) in enumerate(archives.commands(marker)):
        for ending in (".pt", ".bin", ".safetensors", ".index.json"):
            path = folder / f"{number}{ending}"
            path.write_bytes(data)
            for work in (open_checkpoint, inspect):
                with pytest.raises(InvalidData):
                    work(path)
            assert not marker.exists(), name


def test_a_bare_pickle_is_named_as_what_it_is(folder: Path) -> None:
    path = folder / "old.pt"
    path.write_bytes(b"\x80\x02}q\x00.")  # an empty dictionary, not by torch
    with pytest.raises(InvalidData, match=r"old\.pt is a bare pickle, which can run code .* save it again"):
        open_checkpoint(path)


def test_memory_is_bounded_by_the_bytes(folder: Path) -> None:
    for param in ATTACKS:
        kind, data = param.values
        path = folder / NAMES[kind]
        tracemalloc.start()
        survives(path, data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4_000_000 + 30 * len(data), param.id


def test_a_small_file_of_many_values_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten references to ten references to ... : a few bytes, and thousands of values."""
    monkeypatch.setattr(torch_file, "MAX_LEAVES", 1000)
    value: object = 1
    for _ in range(6):
        value = [value] * 10
    path = folder / "a.pt"
    path.write_bytes(archives.saved(value))
    with within(10), pytest.raises(InvalidData, match="more than 1000 values"):
        open_checkpoint(path)


# ---- what is no file -------------------------------------------------------------------------------------------------


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: pipe(folder / "a.safetensors"),
        lambda folder: pipe(folder / "a.safetensors.index.json"),
        lambda folder: pipe(folder / "model.safetensors").parent,
        lambda folder: pipe(folder / "any.safetensors").parent,
        lambda folder: pipe(folder / "model.safetensors.index.json").parent,
        lambda _: Path("/dev/zero"),
        lambda _: Path("/dev/null"),
        lambda folder: folder / "nothing",
        lambda folder: folder / "nothing" / "deeper",
        lambda folder: folder / ("long" * 100),
        lambda folder: folder / "zero\0byte",
    ],
    ids=[
        "pipe",
        "index",
        "folder",
        "any name",
        "folder with index",
        "zero",
        "null",
        "nothing",
        "deeper",
        "long",
        "nul",
    ],
)
def test_what_is_no_file_is_not_waited_for(make: Callable[[Path], Path], folder: Path) -> None:
    path = make(folder)
    with within(5):
        for work in (open_checkpoint, inspect, lambda p: verify(p, []), lambda p: merge([p], out=folder / "out")):
            with pytest.raises(Exception) as caught:
                work(path)  # type: ignore[no-untyped-call]
            assert type(caught.value).__module__ == "spikemesh.errors"
            assert str(path)[:50] in str(caught.value)


def test_a_shard_that_is_a_pipe_is_not_waited_for(folder: Path) -> None:
    shards = write_shards(folder / "a", {"w": f32(1), "v": f32(2)})
    (shards / "model-00002-of-00002.safetensors").unlink()
    pipe(shards / "model-00002-of-00002.safetensors")
    with within(5), pytest.raises(CheckpointError, match="neither a file nor a folder"):
        open_checkpoint(shards)


def test_a_link_in_circles_is_no_checkpoint(folder: Path) -> None:
    (folder / "a.safetensors").symlink_to(folder / "a.safetensors")
    with pytest.raises(CheckpointError, match="is not there"):
        open_checkpoint(folder / "a.safetensors")


# ---- indexes ---------------------------------------------------------------------------------------------------------


def write_index(folder: Path, text: str | bytes) -> Path:
    write_safetensors(folder / "1.safetensors", {"w": f32(1), "extra": i64(1)})
    index = folder / "model.safetensors.index.json"
    index.write_bytes(text if isinstance(text, bytes) else text.encode())
    return index


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"w": 1}}',
        '{"weight_map": {"w": ["1.safetensors"]}}',
        b'{"weight_map": {"w": "\xff"}}',
        "[" * 100_000,
        '{"x":' + "[" * 100_000,
    ],
)
def test_a_damaged_index_is_refused(text: str | bytes, folder: Path) -> None:
    with pytest.raises(InvalidData, match="is not the index of a sharded checkpoint"):
        open_checkpoint(write_index(folder, text))


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "",
        ".",
        "..",
        "./1.safetensors",
        "x/1.safetensors",
        "x/../1.safetensors",
        "a/",
    ],
)
def test_an_index_names_files_beside_it(name: str, folder: Path) -> None:
    with pytest.raises(InvalidData, match="expected names of files beside it, got"):
        open_checkpoint(write_index(folder, json.dumps({"weight_map": {"w": name}})))


def test_an_index_may_be_wrong(folder: Path) -> None:
    index = write_index(folder, json.dumps({"weight_map": {"v": "1.safetensors"}}))
    with pytest.raises(InvalidData, match=r"says that 1\.safetensors holds 'v', and it does not"):
        open_checkpoint(index)
    index = write_index(folder, json.dumps({"weight_map": {"w": "1.safetensors", "v": "2.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"names 2\.safetensors, which is not beside it. Download the missing"):
        open_checkpoint(index)
    for name in ("x" * 300, "x\0y"):
        index = write_index(folder, json.dumps({"weight_map": {"w": name}}))
        with pytest.raises(Exception, match=r"xx|x.y") as caught:
            open_checkpoint(index)
        assert type(caught.value).__module__ == "spikemesh.errors"
    index = write_index(folder, json.dumps({"weight_map": {"w": "1.safetensors"}}))
    assert open_checkpoint(index).left_out == ("1.safetensors: extra",)
    index = write_index(folder, '{"weight_map": {}}')
    with pytest.raises(CheckpointError, match="no tensors to merge"):
        merge([index], out=folder / "out.safetensors")


def test_a_huge_index_is_not_read(folder: Path) -> None:
    index = write_index(folder, "")
    with index.open("r+b") as file:
        file.truncate(MAX_INDEX_BYTES + 1)
    tracemalloc.start()
    with pytest.raises(InvalidData, match="at most 64 MB"):
        open_checkpoint(index)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_an_index_that_is_damaged_in_any_byte_is_never_anything_else(folder: Path) -> None:
    shards = write_shards(folder / "a", {"w": f32(1), "v": f32(2), "u": f32(3)})
    index = shards / "model.safetensors.index.json"
    good = index.read_bytes()
    content = inspect(shards).content
    for position in range(len(good)):
        data = bytearray(good)
        data[position] ^= 0x01
        if survives(index, bytes(data)):
            report = inspect(shards)
            assert report.content == content or report.left_out, position  # it names one tensor twice, another never
