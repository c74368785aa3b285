"""The index of known files: a convenience, which may be lost, damaged or locked, and never gives a wrong answer."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from spikemesh.checkpoint import Checkpoint, inspect, merge, open_checkpoint, verify
from spikemesh.checkpoint.known import CACHE_VARIABLE, KnownFiles, cache_folder
from tests.checkpoint.files import f32, write_safetensors, write_shards
from tests.machine import make_read_only, small_disk

CONTENT = "c" * 64


@pytest.fixture
def known(folder: Path) -> KnownFiles:
    return KnownFiles(folder / "cache")


@pytest.fixture
def path(folder: Path) -> Path:
    return write_safetensors(folder / "a.safetensors", {"w": f32(1, 2)})


@pytest.fixture
def checkpoint(path: Path) -> Iterator[Checkpoint]:
    with closing(open_checkpoint(path)) as opened:
        yield opened


def test_what_was_remembered_is_found(known: KnownFiles, checkpoint: Checkpoint, path: Path) -> None:
    assert known.hash_of(checkpoint) is None and known.find(CONTENT) is None
    known.remember(checkpoint, CONTENT)
    assert known.hash_of(checkpoint) == CONTENT
    assert known.find(CONTENT) == path.resolve()
    assert known.find("d" * 64) is None
    known.remember(checkpoint, "d" * 64)
    assert known.find(CONTENT) is None and known.find("d" * 64) == path.resolve()


def test_a_file_is_known_under_each_of_its_names(known: KnownFiles, checkpoint: Checkpoint, folder: Path) -> None:
    known.remember(checkpoint, CONTENT)
    (folder / "link.safetensors").symlink_to(checkpoint.path)
    with closing(open_checkpoint(folder / "link.safetensors")) as linked:
        assert known.hash_of(linked) == CONTENT


def touch(path: Path) -> None:
    path.write_bytes(path.read_bytes())


def same_times(path: Path) -> None:
    """Another file of the same size, with the time of the first: only the kernel's own clock tells."""
    stat = path.stat()
    write_safetensors(path, {"w": f32(3, 4)})
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replaced(path: Path) -> None:
    copy = path.with_name("copy.safetensors")
    shutil.copy2(path, copy)
    copy.replace(path)


@pytest.mark.parametrize("change", [touch, same_times, replaced, Path.unlink, lambda path: os.truncate(path, 10)])
def test_a_file_that_was_touched_is_not_known(
    change: Callable[[Path], None], known: KnownFiles, checkpoint: Checkpoint, path: Path
) -> None:
    known.remember(checkpoint, CONTENT)
    change(path)
    assert known.find(CONTENT) is None
    known.remember(checkpoint, "d" * 64)  # what was read was what has been there before
    assert known.find("d" * 64) is None
    if path.exists() and path.stat().st_size > 10:
        with closing(open_checkpoint(path)) as again:
            assert known.hash_of(again) is None


def test_one_shard_that_was_touched_is_enough(known: KnownFiles, folder: Path) -> None:
    shards = write_shards(folder / "a", {"w": f32(1), "v": f32(2)})
    for name in ("model-00002-of-00002.safetensors", "model.safetensors.index.json"):
        with closing(open_checkpoint(shards)) as opened:
            known.remember(opened, CONTENT)
        assert known.find(CONTENT) == shards.resolve()
        touch(shards / name)
        assert known.find(CONTENT) is None


# ---- caches that cannot be used --------------------------------------------------------------------------------------


def damaged(cache: Path) -> None:
    cache.mkdir()
    (cache / "checkpoints.sqlite").write_bytes(b"SQLite format 3\0" + b"damaged " * 1000)


def no_database(cache: Path) -> None:
    cache.mkdir()
    (cache / "checkpoints.sqlite").write_text("not a database at all, and longer than a header of one is" * 9)


def a_folder(cache: Path) -> None:
    (cache / "checkpoints.sqlite").mkdir(parents=True)


def another_table(cache: Path) -> None:
    cache.mkdir()
    with closing(sqlite3.connect(cache / "checkpoints.sqlite")) as database:
        database.execute("CREATE TABLE hashes (something INTEGER)")
        database.commit()


def wrong_rows(cache: Path) -> None:
    KnownFiles(cache)._connect().close()  # type: ignore[union-attr]
    with closing(sqlite3.connect(cache / "checkpoints.sqlite")) as database:
        for number, files in enumerate(
            ("[", "7", "[7]", '[["a"]]', '[["a", 1, 2, 3, 4, 5]]', '{"a": 1}', "\ud800" * 0)
        ):
            row = (b"/%d" % number, "content", files, CONTENT)
            database.execute("INSERT INTO hashes VALUES (?, ?, ?, ?)", row)
        database.commit()


@pytest.mark.parametrize(
    "spoil", [lambda cache: cache.write_text("a file"), damaged, no_database, a_folder, another_table, wrong_rows]
)
def test_a_merge_needs_no_cache(spoil: Callable[[Path], None], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [write_safetensors(folder / f"{i}.safetensors", {"w": f32(i)}) for i in (1, 3)]
    good = merge(inputs, out=folder / "good.safetensors").out.read_bytes()
    cache = folder / "spoiled"
    spoil(cache)
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    out = merge([*inputs, inputs[0]], out=folder / "out.safetensors").out
    assert out.read_bytes() == good
    assert verify(out, inputs).differences == ()
    assert inspect(out).unchanged
    assert merge([out, *inputs], out=folder / "again.safetensors").out.read_bytes() == good


def test_rows_of_another_program_find_nothing(folder: Path) -> None:
    wrong_rows(folder / "cache")
    assert KnownFiles(folder / "cache").find(CONTENT) is None


def test_a_read_only_disk(tmp_path: Path, folder: Path, checkpoint: Checkpoint, path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    with small_disk(cache):
        KnownFiles(cache).remember(checkpoint, CONTENT)
        make_read_only(cache)
        known = KnownFiles(cache)
        known.remember(checkpoint, "d" * 64)  # does nothing
        assert known.find(CONTENT) == path.resolve()  # what is there may still be read
        assert known.find("d" * 64) is None


def test_a_cache_that_is_locked_is_not_waited_for_long(
    known: KnownFiles, checkpoint: Checkpoint, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spikemesh.checkpoint.known.BUSY_S", 0.05)
    known.remember(checkpoint, CONTENT)
    with closing(sqlite3.connect(folder / "cache" / "checkpoints.sqlite")) as other:
        other.execute("BEGIN EXCLUSIVE")
        known.remember(checkpoint, "d" * 64)
        assert known.hash_of(checkpoint) is None and known.find(CONTENT) is None
    assert known.hash_of(checkpoint) == CONTENT


def test_two_merges_at_once(folder: Path) -> None:
    """Each remembers all that it has seen."""
    inputs = [write_safetensors(folder / f"{i}.safetensors", {"w": f32(i)}) for i in range(6)]
    outs = [folder / f"out{i}.safetensors" for i in range(8)]
    threads = [
        threading.Thread(target=merge, args=[inputs[i % 5 : i % 5 + 2]], kwargs={"out": out})
        for i, out in enumerate(outs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(verify(out, []).differences == () for out in outs)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, folder: Path, checkpoint: Checkpoint) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "/x")
    assert cache_folder() == Path("/x")
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/y")
    assert cache_folder() == Path("/y/spikemesh")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/z")
    assert cache_folder() == Path("/z/.cache/spikemesh")

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder() is None
    known = KnownFiles()
    known.remember(checkpoint, CONTENT)
    assert known.find(CONTENT) is None and known.hash_of(checkpoint) is None
