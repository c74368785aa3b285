"""The split is by file name, shards cover the training text once, batches depend on (seed, step) alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spikemesh.errors import DataError
from spikemesh.train import Corpus, Document, batch, held_out_windows


def documents(num: int) -> list[Document]:
    rng = np.random.default_rng(num)
    return [Document(f"d/{i}.py", rng.bytes(int(rng.integers(50, 500)))) for i in range(num)]


def test_the_standard_library_without_its_tests() -> None:
    corpus = Corpus.standard_library()
    names = [d.name for d in corpus.train + corpus.held_out]
    assert len(names) == len(set(names)) and "argparse.py" in names and "json/decoder.py" in names
    assert not [n for n in names if {"test", "tests", "idle_test", "site-packages"} & set(n.split("/"))]
    assert 5_000_000 < len(corpus.train_text) < 30_000_000
    assert 0.02 < len(corpus.held_out_text) / len(corpus.train_text) < 0.10


def test_a_documents_side_depends_on_its_name_alone() -> None:
    corpus = Corpus.of(documents(400))
    assert 5 <= len(corpus.held_out) <= 40
    names = {d.name for d in corpus.held_out}
    fewer = Corpus.of(documents(400)[::3])
    assert {d.name for d in fewer.held_out} == names & {d.name for d in documents(400)[::3]}
    assert not names & {d.name for d in corpus.train}


@pytest.mark.parametrize("num_documents", [2, 5, 60])
def test_shards_cover_the_training_text_once(num_documents: int) -> None:
    corpus = Corpus.of(documents(num_documents))
    shards = [corpus.shard(i, 4) for i in range(4)]
    assert sum(map(len, shards)) == len(corpus.train_text)
    assert np.array_equal(np.sort(np.concatenate(shards)), np.sort(corpus.train_text))
    if num_documents > 50:
        assert max(map(len, shards)) < 1.2 * min(map(len, shards))
    with pytest.raises(ValueError):
        corpus.shard(4, 4)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    text = np.frombuffer(bytes(range(256)) * 4, np.uint8)
    rows = batch(text, seed=3, step=5, batch_size=6, num_tokens=10)
    assert rows.shape == (6, 11) and rows.dtype == np.int64
    assert np.array_equal(rows, batch(text, seed=3, step=5, batch_size=6, num_tokens=10))
    assert not np.array_equal(rows, batch(text, seed=3, step=6, batch_size=6, num_tokens=10))
    assert not np.array_equal(rows, batch(text, seed=4, step=5, batch_size=6, num_tokens=10))
    assert (np.diff(rows, axis=1) % 256 == 1).all(), "a window is consecutive bytes"
    with pytest.raises(DataError, match="got 8"):
        batch(text[:8], seed=0, step=0, batch_size=1, num_tokens=10)


def test_held_out_windows_are_fixed_and_bounded() -> None:
    text = np.frombuffer(bytes(range(256)) * 40, np.uint8)
    windows = held_out_windows(text, num_bytes=5000, num_tokens=100)
    assert windows.shape == (50, 101)
    assert windows[-1, -1] == text[-1]
    assert held_out_windows(text[:30], num_bytes=5000, num_tokens=100).shape == (1, 30)


def test_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one text " * 30)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.md").write_text("two")
    (tmp_path / "deep" / "c.bin").write_bytes(b"\0\1")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "drei ü"}) + "\n\n" + json.dumps({"text": "four"}) + "\n")
    corpus = Corpus.load(tmp_path)
    found = {d.name: d.text for d in corpus.train + corpus.held_out}
    assert set(found) == {"a.txt", "deep/b.md", "rows.jsonl#1", "rows.jsonl#3"}
    assert found["rows.jsonl#1"] == "drei ü".encode()
    single = Corpus.load(tmp_path / "a.txt")
    assert bytes(single.train_text) + bytes(single.held_out_text) == b"one text " * 30
    assert len(single.held_out_text) == 14


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.txt", None, "found nothing"),
        ("x.pdf", b"%PDF", "convert it to .txt"),
        ("x.txt", b"", "no non-empty"),
        ("x.txt", b"abc", "longer text|at least"),
        ("x.jsonl", b'{"text": "ok"}\n{oops\n', "line 2"),
        ("x.jsonl", b'{"words": 1}\n', 'no string field "text"'),
        ("x.jsonl", b'["text"]\n', 'no string field "text"'),
        ("x.jsonl", b"[" * 100_000, "not JSON"),
    ],
)
def test_bad_input_is_one_clear_sentence(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        held_out_windows(Corpus.load(path).held_out_text, num_bytes=100, num_tokens=10)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no non-empty document"):
        Corpus.load(tmp_path)
