"""Whatever goes wrong, OUT is as it was, nothing unfinished stays, and the error says what, where and what to do."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikemesh.checkpoint import inspect, merge, output
from spikemesh.checkpoint.content import PIECE_BYTES
from spikemesh.errors import CheckpointError, InvalidData, StoreError, StoreFull
from tests.checkpoint.files import Raw, Tensors, f32, i64, leftovers, read_safetensors, values, write_safetensors
from tests.machine import small_disk

NAN, INF = float("nan"), float("inf")
LONG = PIECE_BYTES + 8  # bytes: two stretches


def long(**at: float) -> Raw:
    """A tensor of two stretches; `_5=1.0` puts 1 at element 5."""
    data = np.zeros(LONG // 4, "<f4")
    for place, value in at.items():
        data[int(place.removeprefix("_"))] = value
    return Raw("F32", data.shape, data.tobytes())


def write(folder: Path, **inputs: Tensors) -> list[Path]:
    return [write_safetensors(folder / f"{name}.safetensors", tensors) for name, tensors in inputs.items()]


LAST = LONG // 4 - 1

REFUSED: dict[str, tuple[dict[str, Tensors], dict[str, Any], type[Exception], str]] = {
    "shapes": (
        {"a": {"w": f32(1, 2)}, "b": {"w": f32(1, 2, shape=(2, 1))}},
        {},
        CheckpointError,
        r"do not fit together: 'w' is F32 \[2\] in .*a\.safe.*, F32 \[2, 1\] in .*b\.safe.*Merge checkpoints of one",
    ),
    "types": (
        {"a": {"w": f32(1)}, "b": {"w": Raw("F16", (1,), b"\0\0")}},
        {},
        CheckpointError,
        r"'w' is F32 \[1\] in .*, F16 \[1\] in ",
    ),
    "a float and integers": (
        {"a": {"w": f32(1)}, "b": {"w": Raw("I32", (1,), bytes(4))}},
        {},
        CheckpointError,
        r"F32 \[1\] in .*, I32 \[1\] in ",
    ),
    "the base": (
        {"a": {"w": f32(1)}, "base": {"w": f32(1, 2)}},
        {"base": "base"},
        CheckpointError,
        r"F32 \[2\] in .*base",
    ),
    "the mask": (
        {"a": {"w": f32(1)}, "mask": {"w_mask": f32(1, 2)}},
        {"mask_from": "mask"},
        CheckpointError,
        r"the mask of 'w' in .*mask\.safetensors is F32 \[2\], the tensor F32 \[1\]",
    ),
    "many clashes": (
        {"a": {f"w{i}": f32(1) for i in range(9)}, "b": {f"w{i}": f32(1, 2) for i in range(9)}},
        {},
        CheckpointError,
        r"'w4' .* And 4 more",
    ),
    "not a number": (
        {"a": {"w": long(_0=1)}, "b": {"v": f32(1), "w": long(**{f"_{LAST}": NAN})}},
        {},
        InvalidData,
        rf"b\.safetensors has NaN or an infinity in tensor 'w', at element {LAST}.*inspect",
    ),
    "infinity": (
        {"a": {"w": f32(1, -INF)}, "b": {"w": f32(1, 2)}},
        {},
        InvalidData,
        r"a\.safetensors has NaN .* 'w', at element 1,",
    ),
    "infinity where nothing is held": (
        {"a": {"w": f32(1)}, "b": {"w": f32(INF)}},
        {"rule": "trimmed-mean"},
        InvalidData,
        "b.safetensors has",
    ),
    "infinity in the base": (
        {"a": {"w": f32(1, 2)}, "base": {"w": f32(1, INF)}},
        {"base": "base"},
        InvalidData,
        r"base\.safetensors has NaN .* 'w', at element 1",
    ),
    "beyond the type": (
        {"a": {"w": long(_3=2.0, **{f"_{LAST}": 65520.0})}},
        {"dtype": "f16"},
        CheckpointError,
        rf"beyond the range of F16 in tensor 'w', at element {LAST}\. Choose a wider type, such as --dtype f32",
    ),
    "beyond the type of the sum": (
        {"a": {"w": f32(3e38)}, "b": {"w": f32(2e38)}},
        {"rule": "sum"},
        CheckpointError,
        "beyond the range of F32 in tensor 'w', at element 0",
    ),
    "integers": (
        {"a": {"n": i64(1, 2, 3)}, "b": {"n": i64(1, 2, 3)}, "c": {"n": i64(1, 2, 4), "m": i64(1)}},
        {},
        CheckpointError,
        r"I64 tensor 'n' differs between .*a\.saf.* and .*c\.saf.*, first at element 2\. .*leave the tensor out",
    ),
    "booleans": (
        {"a": {"n": Raw("BOOL", (2,), b"\0\1")}, "b": {"n": Raw("BOOL", (2,), b"\1\1")}},
        {},
        CheckpointError,
        "BOOL tensor 'n' differs .* at element 0",
    ),
    "other than booleans": (
        {"a": {"n": Raw("BOOL", (2,), b"\0\2")}},
        {},
        InvalidData,
        r"a\.safetensors has other than 0 and 1 in the BOOL tensor 'n'",
    ),
    "nothing": ({"a": {}}, {}, CheckpointError, "no tensors to merge"),
    "no inputs": ({}, {}, ValueError, "at least one checkpoint"),
    "one weight for two": ({"a": {"w": f32(1)}, "b": {"w": f32(2)}}, {"weights": [1]}, ValueError, "got 1 for 2"),
    "no weight": ({"a": {"w": f32(1)}}, {"weights": [0]}, ValueError, "expected a weight .*'0'"),
    "weights of no use": (
        {"a": {"w": f32(1)}, "b": {"w": f32(2)}},
        {"weights": [1, 2], "rule": "max-magnitude"},
        ValueError,
        "leave out the weights",
    ),
    "a rule": ({"a": {"w": f32(1)}}, {"rule": "median"}, ValueError, "expected a rule of active-mean, .*'median'"),
    "a type": ({"a": {"w": f32(1)}}, {"dtype": "f8"}, ValueError, "expected a type of keep, bf16, .*'f8'"),
    "shards of a file": (
        {"a": {"w": f32(1)}},
        {"shard_bytes": 1000},
        CheckpointError,
        r"out\.safetensors is one file; shards go into a folder",
    ),
    "a missing input": ({}, {"inputs": ["gone"]}, CheckpointError, r"gone is not there\. Expected a checkpoint file"),
    "a missing base": ({"a": {"w": f32(1)}}, {"base": "gone"}, CheckpointError, "gone.safetensors is not there"),
}


@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
@pytest.mark.parametrize(("inputs", "options", "error", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(
    inputs: dict[str, Tensors],
    options: dict[str, Any],
    error: type[Exception],
    words: str,
    existing: bool,
    folder: Path,
) -> None:
    out = folder / "out.safetensors"
    if existing:
        out.write_bytes(b"old")
    options = dict(options)
    paths = {path.stem: path for path in write(folder, **inputs)}
    extras = {name: folder / f"{options.pop(name)}.safetensors" for name in ("base", "mask_from") if name in options}
    given = options.pop("inputs", None) or [path for path in paths.values() if path not in extras.values()]
    with pytest.raises(error, match=words):
        merge(given, out=out, force=True, **extras, **options)
    assert (out.read_bytes() == b"old") if existing else not out.exists()
    assert not leftovers(folder)


def test_tables_are_compared_before_anything_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where two files look alike, so that their contents have to be found out."""
    a, b = write(folder, a={"w": long()}, b={"w": f32(1)})
    copy = folder / "copy.safetensors"
    shutil.copy(a, copy)
    read: list[int] = []
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, out, at: read.append(sum(map(len, out))) or real(fd, out, at))  # type: ignore[func-returns-value]
    with pytest.raises(CheckpointError, match="do not fit together"):
        merge([a, copy, b], out=folder / "out.safetensors")
    with pytest.raises(CheckpointError, match="is one file"):
        merge([a, copy], out=folder / "out.safetensors", shard_bytes=9)
    assert sum(read) == 0
    merge([a, copy], out=folder / "out.safetensors")
    assert sum(read) > LONG


# ---- what is in the way ----------------------------------------------------------------------------------------------


def test_what_is_there_is_kept_without_force(folder: Path) -> None:
    (a,) = write(folder, a={"w": f32(1)})
    (folder / "old").mkdir()
    (folder / "old" / "model.safetensors").write_bytes(b"old")
    (folder / "old.safetensors").write_bytes(b"old")
    (folder / "link.safetensors").symlink_to(folder / "nowhere")
    for name in ("old", "old.safetensors", "link.safetensors"):
        with pytest.raises(CheckpointError, match=f"{name} is already there.*--force"):
            merge([a], out=folder / name)
    assert (folder / "old" / "model.safetensors").read_bytes() == b"old"
    assert (folder / "old.safetensors").read_bytes() == b"old"
    assert (folder / "link.safetensors").is_symlink()


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("gone/out.safetensors", "the folder .*gone is not there. Make it"),
        ("a.safetensors/out", "the folder .*a.safetensors is not there"),
        ("..", "no name for a result"),
        ("x" * 300, "File name too long"),
        ("x" * 250, "File name too long"),
    ],
)
def test_places_that_cannot_be(folder: Path, out: str, words: str) -> None:
    (a,) = write(folder, a={"w": f32(1)})
    with pytest.raises((CheckpointError, StoreError), match=words):
        merge([a], out=folder / out, force=True)
    with pytest.raises(CheckpointError, match="no name for a result"):
        merge([a], out=".", force=True)
    assert sorted(path.name for path in folder.iterdir()) in (["a.safetensors"], ["a.safetensors", "cache"])


@pytest.mark.parametrize("make", ["sub-folder", "code.py", "notes.txt"])
@pytest.mark.parametrize("out", ["out", "out.safetensors"])
def test_force_removes_no_folder_of_other_things(folder: Path, make: str, out: str) -> None:
    (a,) = write(folder, a={"w": f32(1)})
    (folder / out).mkdir()
    if make != "notes.txt":
        write_safetensors(folder / out / "model.safetensors", {"w": f32(5)})
    if make == "sub-folder":
        (folder / out / make).mkdir()
    else:
        (folder / out / make).write_text("precious")
    before = sorted((folder / out).rglob("*"))
    with pytest.raises(CheckpointError, match=f"other things than a checkpoint, such as {make}.*Choose another name"):
        merge([a], out=folder / out, force=True)
    assert sorted((folder / out).rglob("*")) == before


@pytest.mark.parametrize("out", ["out", "out.safetensors"])
@pytest.mark.parametrize("old", ["file", "folder", "empty folder", "link to a folder", "link to a file"])
def test_force_replaces(folder: Path, out: str, old: str) -> None:
    (a,) = write(folder, a={"w": f32(7)})
    elsewhere = folder / "elsewhere"
    place = elsewhere if old.startswith("link") else folder / out
    if old.endswith("file"):
        place.write_bytes(b"old")
    else:
        place.mkdir()
    if old in ("folder", "link to a folder"):
        (place / "model-00001-of-00002.safetensors").write_bytes(b"old")
        (place / "config.json").write_bytes(b"old")
    if old.startswith("link"):
        (folder / out).symlink_to(elsewhere)
    merge([a], out=folder / out, force=True)
    if out == "out":
        assert [path.name for path in (folder / out).iterdir()] == ["model.safetensors"]
    else:
        assert values(read_safetensors(folder / out)["w"]) == [7]
    assert not (folder / out).is_symlink()
    assert elsewhere.exists() == old.startswith("link")  # the link was replaced, not what it led to
    assert not leftovers(folder)


# ---- OUT among the inputs --------------------------------------------------------------------------------------------


def test_an_input_may_be_replaced_by_the_result(folder: Path) -> None:
    a, b = write(folder, a={"w": f32(1)}, b={"w": f32(3)})
    merge([a, b], out=a, force=True)
    assert values(read_safetensors(a)["w"]) == [2]
    assert inspect(a).unchanged
    (c,) = write(folder, c={"w": f32(5)})
    with pytest.raises(CheckpointError, match="1 of 3 are not where this machine saw them last"):
        merge([a, c], out=folder / "out.safetensors")  # one leaf is gone for good, and nothing else is taken for it


def test_a_folder_may_be_replaced_by_the_result_of_itself(folder: Path) -> None:
    for name, value in (("a", 1), ("b", 3)):
        (folder / name).mkdir()
        write_safetensors(folder / name / "model.safetensors", {"w": f32(value)})
        (folder / name / "config.json").write_text("{}")
    merge([folder / "a", folder / "b"], out=folder / "a", force=True)
    assert sorted(path.name for path in (folder / "a").iterdir()) == ["config.json", "model.safetensors"]
    assert inspect(folder / "a").unchanged
    # The folder is an input, the result a file in it: what was known of the folder is no longer so.
    merge([folder / "b"], out=folder / "b" / "model.safetensors", force=True, dtype="bf16")
    assert merge([folder / "b"], out=folder / "again", as_is=True).leaves.keys() == {inspect(folder / "b").content}


# ---- disks -----------------------------------------------------------------------------------------------------------


def test_space_is_checked_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (a,) = write(folder, a={"w": long()})
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * LONG - 1))
    monkeypatch.setattr(output.Output, "__init__", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(StoreFull, match=r"takes 1\.0 MB, 1\.0 MB are to stay free .* has 2\.1 MB left\. Free some"):
        merge([a], out=folder / "out.safetensors")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path):
        yield tmp_path


@pytest.mark.parametrize("out", ["out", "out.safetensors"])
def test_a_disk_that_fills_up(disk: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)  # another one takes the space meanwhile
    paths = write(folder, **{f"i{i}": {f"w{i}": Raw("F32", (250_000,), b"\x7f\x3f" * 500_000)} for i in range(4)})
    merge(paths[:1], out=disk / out)
    before = inspect(disk / out).content
    with pytest.raises(StoreFull, match="No space left while writing"):
        merge(paths, out=disk / out, force=True, disjoint=True)
    assert inspect(disk / out).content == before
    assert not leftovers(disk)


@pytest.mark.parametrize("out", ["out", "out.safetensors"])
def test_a_file_size_limit(folder: Path, out: str) -> None:
    (a,) = write(folder, a={"w": long()})
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LONG // 2, hard))
    try:
        with pytest.raises(StoreFull):
            merge([a], out=folder / out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert not (folder / out).exists() and not leftovers(folder)


CALLS = ["os.open", "os.ftruncate", "os.pwrite", "os.fsync", "os.write", "Path.mkdir", "Path.open"]
CALLS += ["Path.write_bytes", "Path.rename", "Path.replace", "output.exchange"]


class Faults:
    """Fails the call of a given number, of those that change the disk."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int, code: int) -> None:
        self.number = number
        self.code = code
        self.count = 0
        self.failed = ""
        for call in CALLS:
            module, name = call.split(".")
            home = {"Path": Path, "os": os, "output": output}[module]
            patch.setattr(home, name, self.wrapped(call, getattr(home, name)))

    def wrapped(self, call: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            is_reading = (call == "os.open" and not args[1] & (os.O_CREAT | os.O_WRONLY)) or (
                call == "Path.open" and not {"x", "w"} & set("".join(args[1:2]))
            )
            if "cache" in str(args[0]) or is_reading:
                return real(*args, **kwargs)
            self.count += 1
            if self.count == self.number:
                self.failed = f"{call} {args[0]}"
                raise OSError(self.code, os.strerror(self.code))
            return real(*args, **kwargs)

        return run


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize(("out", "exchanges"), [("out", True), ("out", False), ("out.safetensors", True)])
def test_an_error_of_any_call_leaves_the_old_or_the_new(
    out: str, exchanges: bool, code: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the file system cannot exchange two names."""
    monkeypatch.setattr(output, "CACHED_SHARE", 0.0)
    if not exchanges:
        monkeypatch.setattr(output, "exchange", lambda one, other: False)
    for name, value in (("a", 1), ("b", 3)):
        (folder / name).mkdir()
        write_safetensors(folder / name / "model.safetensors", {"w": f32(value), "v": f32(2)})
        (folder / name / "config.json").write_text("{}")
    options = {"shard_bytes": 4} if out == "out" else {}
    new = merge([folder / "a", folder / "b"], out=folder / out, **options).checksum
    num_failed = 0
    for number in range(1, 200):
        old = merge([folder / "a"], out=folder / out, force=True).checksum
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, number, code)
            try:
                merge([folder / "a", folder / "b"], out=folder / out, force=True, num_threads=1, **options)
                caught = None
            except StoreError as error:
                caught = error
        if not faults.failed:
            break
        if faults.failed.startswith("os.open") and caught is None:  # direct access is not to be had
            continue
        num_failed += 1
        assert caught is not None and isinstance(caught, StoreFull) == (code == errno.ENOSPC)
        assert str(folder) in str(caught)
        report = inspect(folder / out)
        assert report.unchanged and report.checksum in (old, new), faults.failed
        assert not leftovers(folder), faults.failed
    assert num_failed >= (12 if out == "out" else 6)


def test_a_large_result_passes_by_the_page_cache_and_is_durable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (a,) = write(folder, a={"w": long(_5=1.5), "odd": f32(1, 2, 3)})
    cached = merge([a], out=folder / "1.safetensors").out.read_bytes()
    synced: list[int] = []
    real_fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), real_fsync(fd)))
    monkeypatch.setattr(output, "CACHED_SHARE", 0.0)
    assert merge([a], out=folder / "2.safetensors").out.read_bytes() == cached
    assert len(synced) >= 2, "the file, then its folder"


def test_a_file_system_without_direct_access(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may refuse when the file is opened, or at the first write."""
    (a,) = write(folder, a={"w": long(_5=1.5)})
    plain = merge([a], out=folder / "1.safetensors").out.read_bytes()
    monkeypatch.setattr(output, "CACHED_SHARE", 0.0)
    direct: set[int] = set()
    real_open, real_pwrite, flag = os.open, os.pwrite, os.O_DIRECT

    def opened(path: Any, flags: int, *rest: Any) -> int:
        fd = real_open(path, flags & ~flag, *rest)
        if flags & flag:
            direct.add(fd)
        return fd

    def pwrite(fd: int, data: Any, offset: int) -> int:
        if fd in direct:
            raise OSError(errno.EINVAL, "wants another alignment")
        return real_pwrite(fd, data, offset)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "pwrite", pwrite)
    assert merge([a], out=folder / "2.safetensors").out.read_bytes() == plain
    assert direct
    monkeypatch.setattr(os, "pwrite", real_pwrite)
    monkeypatch.delattr(os, "O_DIRECT")
    assert merge([a], out=folder / "3.safetensors").out.read_bytes() == plain


def test_reads_and_writes_that_are_cut_short_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a system may do at any time."""
    tensors = {"w": Raw("F32", (5000,), np.arange(5000, dtype="<f4").tobytes()), "v": f32(1, 2)}
    (a,) = write(folder, a=tensors)
    whole = merge([a], out=folder / "1.safetensors").out.read_bytes()
    pwrite, preadv = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:1001], at))
    monkeypatch.setattr(os, "preadv", lambda fd, outs, at: preadv(fd, [outs[0][:999]], at))
    assert merge([a], out=folder / "2.safetensors").out.read_bytes() == whole
    monkeypatch.setattr(output, "CACHED_SHARE", 0.0)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:4096], at))
    assert merge([a], out=folder / "3.safetensors").out.read_bytes() == whole


@pytest.mark.parametrize("out", ["out", "out.safetensors"])
def test_what_is_replaced_was_followed_by_durable_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    """Else a power cut would leave neither the old one nor the new."""
    (a,) = write(folder, a={"w": f32(1)})
    calls: list[str] = []
    real_sync = output.OutputFile.sync
    monkeypatch.setattr(output.OutputFile, "sync", lambda file: (calls.append("sync"), real_sync(file)))
    for name in ("rename", "replace"):
        real = getattr(Path, name)
        monkeypatch.setattr(Path, name, lambda p, q, real=real: (calls.append("rename"), real(p, q)))
    exchange = output.exchange
    monkeypatch.setattr(output, "exchange", lambda p, q: (calls.append("rename"), exchange(p, q))[1])
    merge([a], out=folder / out)
    assert "sync" not in calls
    calls.clear()
    merge([a], out=folder / out, force=True)
    assert calls[0] == "sync" and "rename" in calls


# ---- inputs that change under the hand -------------------------------------------------------------------------------


class Meddler:
    """Progress that does something as soon as the long work has read the first bytes."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        self.meddle = meddle
        self.label = ""

    def begin(self, label: str, total: int, unit: str = "bytes") -> None:
        self.label = label

    def advance(self, amount: int) -> None:
        if self.label == "merging" and self.meddle is not None:
            self.meddle()
            self.label = "done"


@pytest.mark.parametrize("out", ["out", "out.safetensors"])
def test_what_comes_to_the_place_of_the_result_meanwhile_is_kept(folder: Path, out: str) -> None:
    (a,) = write(folder, a={"w": long()})
    there = folder / out

    def come() -> None:
        there.mkdir() if out == "out" else there.write_bytes(b"another")

    with pytest.raises(CheckpointError, match="has come there meanwhile"):
        merge([a], out=there, progress=Meddler(come))
    assert there.is_dir() if out == "out" else there.read_bytes() == b"another"
    assert not leftovers(folder)


def test_an_input_that_is_cut_off_meanwhile(folder: Path) -> None:
    a, b = write(folder, a={"w": long()}, b={"w": long(_1=2)})
    meddler = Meddler(lambda: os.truncate(b, 1000))
    with pytest.raises(InvalidData, match=r"b\.safetensors ended at byte 1000: it was cut off after it was opened"):
        merge([a, b], out=folder / "out.safetensors", num_threads=1, progress=meddler)
    assert not (folder / "out.safetensors").exists() and not leftovers(folder)


def test_a_disk_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = write(folder, a={"w": long()}, b={"w": long(_1=2)})
    real = os.preadv

    def preadv(fd: int, out: Any, offset: int) -> int:
        if offset > PIECE_BYTES:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, out, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(StoreError, match=r"failed while reading .*[ab]\.safetensors .*Check the path and the disk"):
        merge([a, b], out=folder / "out.safetensors")
    assert not (folder / "out.safetensors").exists() and not leftovers(folder)


def test_an_input_that_was_seen_and_changes_meanwhile(folder: Path) -> None:
    """A leaf of a merge is known by its content: what is merged has to be that."""
    a, b, c = write(folder, a={"w": long(_2=1)}, b={"w": long(_1=2)}, c={"w": f32(1)})
    merge([a, b], out=folder / "ab.safetensors")
    (c,) = write(folder, c={"w": long(_0=1)})

    def change() -> None:
        with b.open("r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(b"\0\0\x80\x3f")

    with pytest.raises(InvalidData, match=r"b\.safetensors has changed: expected content .*, read "):
        merge([folder / "ab.safetensors", c], out=folder / "out.safetensors", num_threads=1, progress=Meddler(change))
    assert not (folder / "out.safetensors").exists() and not leftovers(folder)


def test_inputs_that_become_the_same_meanwhile(folder: Path) -> None:
    a, b = write(folder, a={"w": long(_5=1)}, b={"w": long(**{f"_{LAST // 2}": 1})})
    with pytest.raises(InvalidData, match="become the same while they were read"):
        merge(
            [a, b],
            out=folder / "out.safetensors",
            num_threads=1,
            progress=Meddler(lambda: write(folder, b={"w": long(_5=1)})),
        )
    assert not (folder / "out.safetensors").exists() and not leftovers(folder)
