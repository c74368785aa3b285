"""Models whose tokenizers differ: rows of embeddings and heads meet by their tokens, and by nothing else."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from spikemesh.checkpoint import merge, merge_again, preview, read_recipe_file, recipe_of, to_toml, verify
from spikemesh.checkpoint.content import PIECE_BYTES
from spikemesh.checkpoint.known import CACHE_VARIABLE
from spikemesh.checkpoint.vocabulary import read_vocabulary
from spikemesh.errors import CheckpointError, InvalidData
from tests.checkpoint.files import Raw, f32, read_safetensors, values, write_safetensors

WIDTH = 3
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def tokenizer(tokens: Sequence[str], added: Sequence[str] = ()) -> str:
    rest = [{"id": len(tokens) + i, "content": token, "special": True} for i, token in enumerate(added)]
    model = {"type": "WordLevel", "vocab": {token: i for i, token in enumerate(tokens)}}
    return json.dumps({"model": model, "added_tokens": rest})


def model(folder: Path, tokens: Sequence[str], by_token: dict[str, float], *, padding: int = 0, **others: Raw) -> Path:
    """A folder whose row of a token is its number three times; rows of padding are -1."""
    folder.mkdir()
    rows = [by_token[token] for token in tokens] + [-1.0] * padding
    table = f32(*np.repeat(rows, WIDTH), shape=(len(rows), WIDTH))
    write_safetensors(folder / "model.safetensors", {EMBEDDING: table, HEAD: table, "norm.weight": f32(1), **others})
    (folder / "tokenizer.json").write_text(tokenizer(tokens[:1], tokens[1:]))
    (folder / "config.json").write_text(json.dumps({"vocab_size": len(rows)}))
    return folder


def rows_of(path: Path, name: str = EMBEDDING) -> list[float]:
    raw = read_safetensors(path / "model.safetensors" if path.is_dir() else path)[name]
    found = np.array(values(raw)).reshape(raw.shape)
    assert (found == found[:, :1]).all()
    return found[:, 0].tolist()


@pytest.fixture
def models(folder: Path) -> list[Path]:
    """A base, one input with another order and a token more, one with a token less."""
    return [
        model(folder / "base", ["a", "b", "c"], {"a": 1, "b": 2, "c": 3}, padding=2),
        model(folder / "x", ["c", "new", "a", "b"], {"a": 3, "b": 2, "c": 7, "new": 9}),
        model(folder / "y", ["b", "a"], {"a": 5, "b": 10}),
    ]


def test_rows_meet_by_the_strings_of_their_tokens(folder: Path, models: list[Path]) -> None:
    """a: base 1, x +2, y +4. b: x as the base, y +8. c: y has none, x alone +4. Padding is the base's."""
    base, *inputs = models
    report = merge(inputs, base=base, out=folder / "out", rule="mean", vocab="base")
    assert rows_of(folder / "out") == rows_of(folder / "out", HEAD) == [4, 6, 7, -1, -1]
    assert report.matched is not None and report.matched.tensors == (HEAD, EMBEDDING)
    assert (report.matched.num_rows, report.matched.num_tokens) == (5, 3)
    assert report.matched.without_row == {str(models[1]): ("new",)}
    assert (folder / "out" / "tokenizer.json").read_text() == (base / "tokenizer.json").read_text()
    assert json.loads((folder / "out" / "config.json").read_text()) == {"vocab_size": 5}
    assert verify(folder / "out", inputs, base=base).differences == ()
    assert preview(inputs, base=base, vocab="base").matched == report.matched


def test_a_row_that_one_input_alone_has_is_as_it_is_there(folder: Path, models: list[Path]) -> None:
    """By every rule that takes means, no missing row counts as zeros."""
    _, x, y = models
    for number, rule in enumerate(("active-mean", "mean", "trimmed-mean", "sign-elect", "max-magnitude")):
        out = folder / f"{number}.safetensors"
        report = merge([x, y], out=out, rule=rule, vocab="base")
        assert report.matched is not None
        if report.matched.tokenizer == x / "tokenizer.json":
            assert rows_of(out)[:2] == [7, 9]
        else:
            assert len(rows_of(out)) == 2
    with_c = model(folder / "z", ["b", "a", "c"], {"a": 5, "b": 10, "c": 4})
    merge([y, with_c], base=with_c, out=folder / "base.safetensors", rule="mean", vocab="base")
    assert rows_of(folder / "base.safetensors") == [10, 5, 4]


def test_neither_order_nor_grouping_nor_repetition_matter(folder: Path, models: list[Path]) -> None:
    results = set()
    for number, order in enumerate(itertools.permutations(models)):
        out = folder / f"{number}.safetensors"
        merge([*order, order[0]], out=out, vocab="base")
        results.add(out.read_bytes())
    a, b, c = models
    merge([b, c], out=folder / "part.safetensors", vocab="base")
    merge([folder / "part.safetensors", a], out=folder / "whole.safetensors", vocab="base")
    results.add((folder / "whole.safetensors").read_bytes())
    assert len(results) == 1


def test_equal_vocabularies_give_the_tensors_of_a_plain_merge(folder: Path) -> None:
    """Their padding too, which is merged by place."""
    x, y = (model(folder / n, ["a", "b"], {"a": v, "b": 2 * v}, padding=1) for n, v in (("x", 1), ("y", 3)))
    merge([x, y], out=folder / "plain.safetensors")
    merge([x, y], out=folder / "matched.safetensors", vocab="base")
    assert read_safetensors(folder / "plain.safetensors") == read_safetensors(folder / "matched.safetensors")


def test_the_recipe_says_it_and_repeats_it(folder: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    base, *inputs = models
    merge(inputs, base=base, out=folder / "out", vocab="base")
    recipe = recipe_of(folder / "out")
    assert recipe.vocab == "base" and len(recipe.tokens) == 3
    (folder / "recipe.toml").write_text(to_toml(recipe, {}))
    assert read_recipe_file(folder / "recipe.toml") == recipe
    monkeypatch.setenv(CACHE_VARIABLE, str(folder / "empty"))
    (folder / "models").mkdir()
    for path in models:
        path.rename(folder / "models" / path.name)
    merge_again(recipe, out=folder / "again", from_folder=folder / "models")
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (folder / "again" / name).read_bytes() == (folder / "out" / name).read_bytes()
    (folder / "models" / "x" / "tokenizer.json").write_text(tokenizer(["a", "new", "c", "b"]))
    with pytest.raises(CheckpointError, match="other tokens than when this was merged"):
        merge_again(recipe, out=folder / "other", from_folder=folder / "models")


def test_large_rows_are_cut_where_pieces_are(folder: Path) -> None:
    """Rows that no stretch holds whole, against NumPy."""
    rng = np.random.default_rng(7)
    width, names = PIECE_BYTES // 4 + 5, list("abcde")
    tables, paths = [], []
    for number, tokens in enumerate((names, ["e", "x", "b", "d"])):
        path = model(folder / str(number), tokens, dict.fromkeys(tokens, 0.0))
        table = rng.integers(-9, 9, (len(tokens), width)).astype("<f4")
        write_safetensors(path / "model.safetensors", {EMBEDDING: Raw("F32", table.shape, table.tobytes())})
        tables.append(dict(zip(tokens, table, strict=True)))
        paths.append(path)
    merge(paths[1:], base=paths[0], out=folder / "out.safetensors", rule="mean", vocab="base")
    raw = read_safetensors(folder / "out.safetensors")[EMBEDDING]
    expected = np.stack([tables[1].get(name, tables[0][name]) for name in names])
    assert np.array_equal(np.frombuffer(raw.data, "<f4").reshape(raw.shape), expected)


def test_a_tensor_from_one_input_needs_all_its_rows(folder: Path, models: list[Path]) -> None:
    base, *inputs = models
    with pytest.raises(CheckpointError, match="no row for 'c'"):
        merge(inputs, base=base, out=folder / "out", vocab="base", take=[f"{HEAD}=y"])
    merge(inputs, base=base, out=folder / "out", vocab="base", rule="mean", take=[f"{HEAD}=x"])
    assert rows_of(folder / "out", HEAD) == [3, 2, 7, 0, 0] and rows_of(folder / "out") == [4, 6, 7, -1, -1]


def test_what_cannot_be_matched_is_refused(folder: Path, models: list[Path]) -> None:
    base, x, y = models
    with pytest.raises(CheckpointError, match="do not fit together"):
        merge([x, y], out=folder / "out")
    with pytest.raises(CheckpointError, match="splits text in another way"):
        merge([x, y], out=folder / "out", vocab="union")
    with pytest.raises(ValueError, match="slerp"):
        merge([x, y], out=folder / "out", vocab="base", rule="slerp")
    with pytest.raises(CheckpointError, match="has not the tokens of"):
        merge([x, y], base=base, out=folder / "out", vocab="base", companions_from=x)
    with pytest.raises(CheckpointError, match="beside state dict 1"):
        merge([{EMBEDDING: np.zeros((2, 3), np.float32)}, x], out=folder / "out", vocab="base")
    short = model(folder / "short", ["a"], {"a": 1})
    (short / "tokenizer.json").write_text(tokenizer(["a", "b"]))
    with pytest.raises(CheckpointError, match="it is not that model's tokenizer"):
        merge([x, short], out=folder / "out", vocab="base")
    said = json.loads((y / "tokenizer.json").read_text()) | {"decoder": {"type": "ByteLevel"}}
    (y / "tokenizer.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match="written as bytes"):
        merge([x, y], out=folder / "out", vocab="base")
    assert not (folder / "out").exists()


DAMAGED = """[]
{
{}
{"model": 1}
{"model": {"vocab": {}}}
{"model": {"vocab": {"a": -1}}}
{"model": {"vocab": {"a": 1e3}}}
{"model": {"vocab": {"a": true}}}
{"model": {"vocab": {"a": 99999999999}}}
{"model": {"vocab": {"a": 0, "b": 0}}}
{"model": {"vocab": [[1, 2]]}}
{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1, "content": "a"}]}"""


@pytest.mark.parametrize("text", [*DAMAGED.splitlines(), "[" * 5000])
def test_a_damaged_tokenizer_is_named(folder: Path, models: list[Path], text: str) -> None:
    (models[1] / "tokenizer.json").write_text(text)
    with pytest.raises(InvalidData, match="is no vocabulary"):
        merge(models[1:], out=folder / "out", vocab="base")


def test_a_union_has_the_rows_and_tokens_of_all(folder: Path) -> None:
    base = model(folder / "base", ["a", "b"], {"a": 1, "b": 2}, padding=2)
    x = model(folder / "x", ["a", "b", "x", "shared"], {"a": 3, "b": 2, "x": 7, "shared": 2})
    y = model(folder / "y", ["a", "shared", "more", "most", "b"], {"a": 1, "b": 4, "shared": 4, "more": 5, "most": 6})
    (base / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"1": {"content": "b"}}}')
    results = set()
    for number, order in enumerate(([x, y], [y, x])):
        out = folder / str(number)
        report = merge(order, base=base, out=out, rule="mean", vocab="union")
        assert report.matched is not None and report.matched.added == ("more", "most", "shared", "x")
        results.add(tuple((path.name, path.read_bytes()) for path in sorted(out.iterdir())))
    assert len(results) == 1
    assert rows_of(out) == rows_of(out, HEAD) == [2, 3, 5, 6, 3, 7]
    read = read_vocabulary(out)
    assert read is not None and read.tokens == {t: i for i, t in enumerate(["a", "b", "more", "most", "shared", "x"])}
    said = json.loads((out / "tokenizer.json").read_text())
    assert said["added_tokens"][-1] == {"id": 5, "content": "x", "special": True}
    decoder = json.loads((out / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert decoder["5"] == {"content": "x", "special": True} and list(decoder) == ["1", "2", "3", "4", "5"]
    assert json.loads((out / "config.json").read_text()) == {"vocab_size": 6}
    assert verify(out, [x, y], base=base).differences == ()
    merge_again(recipe_of(out), out=folder / "again", from_folder=folder)
    assert {path.name: path.read_bytes() for path in (folder / "again").iterdir()} == dict(next(iter(results)))


def test_a_union_is_free_of_order_and_grouping(folder: Path) -> None:
    """Without a base, and through merged folders."""
    a, b, c = (
        model(folder / str(number), tokens, {token: value + ord(token) for token in tokens})
        for number, (value, tokens) in enumerate(((1, "pqr"), (5, "pts"), (7, "prxq")))
    )
    (folder / "out").mkdir()
    merge([b, c], out=folder / "out" / "part", vocab="union")
    merge([folder / "out" / "part", a], out=folder / "out" / "parts", vocab="union")
    for number, order in enumerate(itertools.permutations((a, b, c))):
        merge(order, out=folder / "out" / str(number), vocab="union")
    read = [(folder / "out" / name) for name in ("parts", *map(str, range(6)))]
    assert len({tuple((f.name, f.read_bytes()) for f in sorted(path.iterdir())) for path in read}) == 1
    assert len(rows_of(read[0])) == 6


def test_a_union_keeps_padding_behind_its_tokens_and_needs_a_folder(folder: Path) -> None:
    base = model(folder / "base", ["a"], {"a": 1}, padding=3)
    x = model(folder / "x", ["a", "x"], {"a": 1, "x": 7})
    merge([x], base=base, out=folder / "out", vocab="union")
    assert rows_of(folder / "out") == [1, 7, -1, -1]
    with pytest.raises(CheckpointError, match="Name a folder"):
        merge([x], base=base, out=folder / "out.safetensors", vocab="union")
    with pytest.raises(ValueError, match="needs the base's rows"):
        merge([x], base=base, out=folder / "no", vocab="union", rule="sum")
    write_safetensors(x / "model.safetensors", {EMBEDDING: f32(1, 1, 1, 7, 7, 7, shape=(2, 3))})
    with pytest.raises(CheckpointError, match="no row for 'x'"):
        merge([x], base=base, out=folder / "no", vocab="union")


def test_a_union_publishes_nothing_that_a_link_leads_to(folder: Path) -> None:
    base = model(folder / "base", ["a"], {"a": 1})
    x = model(folder / "x", ["a", "x"], {"a": 1, "x": 7})
    (folder / "private.json").write_text('{"added_tokens_decoder": {}, "password": 1}')
    (base / "tokenizer_config.json").symlink_to(folder / "private.json")
    merge([x], base=base, out=folder / "out", vocab="union")
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    (base / "tokenizer.json").rename(folder / "tokenizer.json")
    (base / "tokenizer.json").symlink_to(folder / "tokenizer.json")
    with pytest.raises(CheckpointError, match="none to take along"):
        merge([x], base=base, out=folder / "no", vocab="union")


def test_a_union_cannot_have_a_token_and_what_took_its_place(folder: Path) -> None:
    base, x = (model(folder / name, ["a", "b"], {"a": 1, "b": 2}) for name in ("base", "x"))
    for path, added in ((base, "n"), (x, "b")):
        said = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 1, "content": added}]}
        (path / "tokenizer.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match="in the place of 'b'"):
        merge([x], base=base, out=folder / "out", vocab="union")
    (x / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "b": 1}}}')
    with pytest.raises(CheckpointError, match="in the place of 'b'"):
        merge([x], base=base, out=folder / "out", vocab="union")


def test_an_added_token_may_take_the_place_of_another(folder: Path, models: list[Path]) -> None:
    base, x, y = models
    (x / "tokenizer.json").write_text(
        json.dumps(
            {"model": {"vocab": {"c": 0, "reserved": 1, "a": 2, "b": 3}}, "added_tokens": [{"id": 1, "content": "n"}]}
        )
    )
    report = merge([x, y], base=base, out=folder / "out.safetensors", vocab="base")
    assert report.matched is not None and report.matched.without_row == {str(x): ("n",)}


def test_one_file_needs_no_configuration(folder: Path, models: list[Path]) -> None:
    for path in models:
        (path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="nothing beside"):
        merge(models[1:], base=models[0], out=folder / "out", vocab="base")
    merge(models[1:], base=models[0], out=folder / "out.safetensors", vocab="base")


def test_other_forms_of_vocabularies(folder: Path, models: list[Path]) -> None:
    """Pieces with scores, and the two files of older tokenizers."""
    _, x, y = models
    pieces = {"model": {"type": "Unigram", "vocab": [["c", -1.0], ["new", -2.0], ["a", -2.5], ["b", -3.0]]}}
    (x / "tokenizer.json").write_text(json.dumps(pieces))
    (y / "tokenizer.json").unlink()
    (y / "vocab.json").write_text('{"b": 0}')
    (y / "added_tokens.json").write_text('{"a": 1}')
    merge([x, y], base=models[0], out=folder / "out.safetensors", rule="mean", vocab="base")
    assert rows_of(folder / "out.safetensors") == [4, 6, 7, -1, -1]
