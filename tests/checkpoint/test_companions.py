"""What stands beside the weights: from one named source, nothing lost in silence, nothing smuggled in by a link."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from spikemesh.checkpoint import companions, merge
from spikemesh.checkpoint.companions import survey
from spikemesh.errors import CheckpointError, InvalidData
from tests.checkpoint.files import f32, leftovers, read_safetensors, values, write_safetensors

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "merges.txt", "chat_template.jinja")
REMOTE = (
    "configuration_x.py",
    "qwen.tiktoken",
    "tokenizer.model.v3",
    "modules.json",
    "1_Pooling/config.json",
    "LICENSE",
)


def model(place: Path, texts: Mapping[str, str], *, value: float = 1, weights: str = "model.safetensors") -> Path:
    place.mkdir()
    write_safetensors(place / weights, {"w": f32(value, value)})
    for name, text in texts.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def of(letter: str, *names: str) -> dict[str, str]:
    return {name: json.dumps({"of": letter, "file": name}) for name in names or FILES}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# ---- one source ------------------------------------------------------------------------------------------------------


def test_all_come_from_the_input_of_the_largest_weight(folder: Path) -> None:
    c, d = model(folder / "C", of("C"), value=1), model(folder / "D", of("D"), value=3)
    for number, (inputs, weights) in enumerate([((c, d), ("0.9", "0.1")), ((d, c), ("0.1", "0.9"))]):
        report = merge(inputs, out=folder / f"M{number}", weights=weights)
        assert {name: text for name, text in contents(report.out).items() if name in FILES} == {
            name: (c / name).read_bytes() for name in FILES
        }
        assert report.companions.source is not None and report.companions.source.folder == c
        assert report.companions.differing == tuple(sorted(FILES))


def test_of_equal_weights_one_is_chosen_that_order_copies_and_grouping_do_not_change(folder: Path) -> None:
    inputs = [model(folder / name, of(name), value=value) for value, name in enumerate("ABC", start=1)]
    orders = [merge(order, out=folder / "".join(p.name for p in order)) for order in itertools.permutations(inputs)]
    orders.append(merge([*inputs, inputs[0]], out=folder / "twice"))
    orders.append(merge([merge(inputs[:2], out=folder / "two").out, inputs[2]], out=folder / "grouped"))
    assert len({tuple(sorted(contents(report.out).items())) for report in orders}) == 1
    sources = {report.companions.source.folder.name for report in orders if report.companions.source}
    assert len(sources) == 1 and sources < set("ABC")


def test_the_base_comes_first_and_a_named_folder_before_it(folder: Path) -> None:
    base, a, b, other = (model(folder / name, of(name), value=i) for i, name in enumerate(("base", "a", "b", "other")))
    (a / "spiece.model").write_text("only a")
    report = merge([a, b], base=base, out=folder / "M")
    assert (report.out / "config.json").read_bytes() == (base / "config.json").read_bytes()
    assert report.companions.left == {a: {"spiece.model": f"not in {base}"}}
    report = merge([a, b], base=base, companions_from=other, out=folder / "N")
    assert (report.out / "config.json").read_bytes() == (other / "config.json").read_bytes()
    with pytest.raises(CheckpointError, match="no configuration to take along"):
        merge([a, b], companions_from=model(folder / "empty", {}), out=folder / "O")


# ---- nothing lost in silence -----------------------------------------------------------------------------------------


def test_everything_that_a_loader_reads_is_carried_along(folder: Path) -> None:
    texts = {"config.json": "{}", **dict.fromkeys(REMOTE, "{}")}
    a, b = model(folder / "A", texts), model(folder / "B", texts, value=3)
    report = merge([a, b], out=folder / "M")
    assert set(contents(report.out)) == {"model.safetensors", *texts}
    assert report.companions.left == {} and report.companions.differing == ()


def test_what_is_left_behind_is_named_with_its_reason(folder: Path) -> None:
    left = {
        "README.md": companions.DESCRIPTION,
        "training_args.bin": companions.STATE,
        "trainer_state.json": companions.STATE,
        "pytorch_model.bin": companions.WEIGHTS,
        "model.fp16.safetensors.index.json": companions.WEIGHTS,
        "sample.wav": companions.UNKNOWN,
        ".env": companions.HIDDEN,
    }
    folders = {
        "onnx/model.onnx": companions.OWN_WEIGHTS,
        "checkpoint-5/config.json": companions.OWN_WEIGHTS,
        "checkpoint-5/model.safetensors": companions.OWN_WEIGHTS,
        "wandb/run.json": companions.STATE,
        ".git/config": companions.HIDDEN,
        "media/x.png": companions.NOTHING,
    }
    a = model(folder / "A", {"config.json": "{}", **dict.fromkeys((*left, *folders), "{}")})
    (a / "empty").mkdir()
    os.mkfifo(a / "pipe.json")
    report = merge([a], out=folder / "M")
    assert set(contents(report.out)) == {"model.safetensors", "config.json"}
    expected = left | {name.split("/")[0] + "/": why for name, why in folders.items()}
    expected |= {"empty/": companions.NOTHING, "pipe.json": companions.STRANGE}
    assert report.companions.left == {a: dict(sorted(expected.items()))}


def test_a_result_in_one_file_names_what_stays(folder: Path) -> None:
    a = model(folder / "A", of("A", "config.json"))
    report = merge([a], out=folder / "M.safetensors")
    assert report.companions.left == {a: {"config.json": companions.ONE_FILE}}


def test_a_folder_of_notes_is_no_model(folder: Path) -> None:
    a = model(folder / "A", {"notes.txt": "mine", "accounts.json": "{}"})
    report = merge([a], out=folder / "M")
    assert set(contents(report.out)) == {"model.safetensors"}
    assert report.companions.left == {a: dict.fromkeys(("accounts.json", "notes.txt"), companions.NO_MODEL)}


# ---- prepared folders ------------------------------------------------------------------------------------------------


def test_links_lead_nowhere_but_inside(folder: Path) -> None:
    (folder / "private").mkdir()
    (folder / "private" / "key.txt").write_text("secret")
    a = model(folder / "A", {"config.json": "{}", "real.txt": "inside", "sub/x.json": "{}", ".git/config": "token"})
    links = {
        "absolute.txt": (folder / "private" / "key.txt", companions.LINK_OUT),
        "relative.txt": (Path("../private/key.txt"), companions.LINK_OUT),
        "sub/nested.txt": (Path("../../private/key.txt"), companions.LINK_OUT),
        "passwords.txt": (Path("/etc/passwd"), companions.LINK_OUT),
        "process.txt": (Path("/proc/self/environ"), companions.LINK_OUT),
        "folder.txt": (folder / "private", companions.LINK_OUT),
        "twice.txt": (Path("relative.txt"), companions.LINK_OUT),
        "token.txt": (Path(".git/config"), companions.HIDDEN),
        "broken.txt": (Path("gone"), companions.LINK_NOWHERE),
        "loop.txt": (Path("loop.txt"), companions.LINK_NOWHERE),
        "here.json": (folder / "A" / "sub", companions.LINK_FOLDER),
    }
    for name, (target, _) in links.items():
        (a / name).symlink_to(target)
    (a / "fine.txt").symlink_to("real.txt")
    report = merge([a], out=folder / "M")
    assert b"secret" not in b"".join(contents(report.out).values())
    assert set(contents(report.out)) == {"model.safetensors", "config.json", "real.txt", "fine.txt", "sub/x.json"}
    assert (report.out / "fine.txt").read_text() == "inside" and not (report.out / "fine.txt").is_symlink()
    assert report.companions.left[a] == dict(
        sorted({".git/": companions.HIDDEN, **{name: why for name, (_, why) in links.items()}}.items())
    )


def test_a_snapshot_in_the_hugging_face_cache(folder: Path) -> None:
    """Its files are links to blobs beside the snapshots; what leads elsewhere, or to blobs elsewhere, is not taken."""
    repository = folder / "models--of--somebody"
    snapshot, blobs = repository / "snapshots" / "abc", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    write_safetensors(blobs / "1", {"w": f32(1)})
    (blobs / "2").write_text("{}")
    (repository / "refs.txt").write_text("beside")
    for name, target in {"model.safetensors": "1", "config.json": "2", "tokenizer/a.json": "2"}.items():
        (snapshot / name).parent.mkdir(exist_ok=True)
        (snapshot / name).symlink_to(blobs / target)
    (snapshot / "beside.txt").symlink_to(repository / "refs.txt")
    seen = merge([snapshot], out=folder / "M")
    assert set(contents(seen.out)) == {"model.safetensors", "config.json", "tokenizer/a.json"}
    assert seen.companions.left == {snapshot: {"beside.txt": companions.LINK_OUT}}

    (folder / "private").mkdir()
    (folder / "private" / "2").write_text("secret")
    blobs.rename(folder / "elsewhere")
    blobs.symlink_to(folder / "private")  # as a prepared archive could bring it
    assert survey(snapshot, ["model.safetensors"]).files == {}


def test_a_hostile_folder_fills_no_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = model(folder / "A", {"config.json": "{}"} | {f"b/{i:03}.json": "12345" for i in range(30)})
    with (a / "huge.json").open("wb") as file:
        file.truncate(companions.MAX_FILE_BYTES + 1)
    assert survey(a).left == {"huge.json": companions.LARGE, "model.safetensors": companions.WEIGHTS}
    for bound, value in (("MAX_FILES", 11), ("MAX_BYTES", 52)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(companions, bound, value)
            seen = survey(a)
        assert set(seen.files) == {"config.json", *(f"b/{i:03}.json" for i in range(10))}
        assert list(seen.left.values()).count(companions.TOO_MUCH) == 20
    monkeypatch.setattr(companions, "MAX_ENTRIES", 10)
    seen = survey(a)
    assert len(seen.files) == 7 and companions.REST in seen.left.values()


def test_folders_in_folders_have_an_end(folder: Path) -> None:
    a = model(folder / "A", {"config.json": "{}"})
    place = a
    for _ in range(40):
        place = place / "f"
        place.mkdir()
        (place / "x.json").write_text("{}")
    seen = survey(a, ["model.safetensors"])
    assert set(seen.files) == {"config.json", "f/x.json", "f/f/x.json", "f/f/f/x.json"}
    assert seen.left == {"f/f/f/f/": companions.DEEP}


def test_a_file_that_becomes_another_is_not_copied(folder: Path) -> None:
    a = model(folder / "A", {"config.json": "{}", "vocab.txt": "abc"})
    seen = survey(a).files["vocab.txt"]
    (a / "vocab.txt").write_text("longer than it was")
    with pytest.raises(InvalidData, match="has changed while it was read"):
        seen.read()
    (a / "vocab.txt").unlink()
    (a / "vocab.txt").symlink_to(a / "config.json")
    with pytest.raises(Exception, match="vocab"):
        seen.read()


# ---- names of files --------------------------------------------------------------------------------------------------

NAMES = [
    ("adapter_model.safetensors", "adapter_model", "adapter_model.safetensors.index.json"),
    (
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model",
        "diffusion_pytorch_model.safetensors.index.json",
    ),
    (
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.fp16",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
    ),
    ("consolidated.safetensors", "consolidated", "consolidated.safetensors.index.json"),
    ("somebodys_name.safetensors", "somebodys_name", "somebodys_name.safetensors.index.json"),
]


@pytest.mark.parametrize(("weights", "stem", "index"), NAMES)
def test_names_are_kept_where_the_inputs_agree(folder: Path, weights: str, stem: str, index: str) -> None:
    config = {"config.json": '{"r": 2}'}
    a, b = model(folder / "A", config, value=1, weights=weights), model(folder / "B", config, value=3, weights=weights)
    single = merge([a, b], out=folder / "M").out
    assert set(contents(single)) == {weights, "config.json"}
    assert values(read_safetensors(single / weights)["w"]) == [2, 2]
    write_safetensors(a / weights, {"w": f32(1, 1), "v": f32(1)})
    shards = merge([a], out=folder / "S", shard_bytes=8).out
    names = {f"{stem}-{number:05}-of-00002.safetensors" for number in (1, 2)}
    assert set(contents(shards)) == {index, *names, "config.json"}
    assert set(json.loads((shards / index).read_text())["weight_map"].values()) == names
    again = merge([shards, b], out=folder / "again").out
    assert set(contents(again)) == {weights, "config.json"}


def test_names_that_differ_become_the_usual_one(folder: Path) -> None:
    a = model(folder / "A", {}, weights="diffusion_pytorch_model.safetensors")
    b = model(folder / "B", {}, value=3, weights="pytorch.safetensors")
    assert set(contents(merge([a, b], out=folder / "M").out)) == {"model.safetensors"}
    odd = [a / "diffusion_pytorch_model.safetensors", write_safetensors(folder / "x.safetensors", {"w": f32(1, 2)})]
    assert set(contents(merge(odd, out=folder / "N").out)) == {"model.safetensors"}
    assert set(contents(merge(odd[:1], out=folder / "O").out)) == {"diffusion_pytorch_model.safetensors"}
    assert set(contents(merge(odd[1:], out=folder / "P").out)) == {"model.safetensors"}


@pytest.mark.parametrize("name", ["merged.pt", "merged.bin", "merged.ckpt", "merged.SAFETENSORS", "merged.gguf"])
def test_names_of_other_formats_are_refused(folder: Path, name: str) -> None:
    a = model(folder / "A", {})
    with pytest.raises(CheckpointError, match=r"written as safetensors.*such as .*merged\.safetensors, or one without"):
        merge([a], out=folder / name)
    assert not (folder / name).exists()


# ---- the configuration agrees with the tensors -----------------------------------------------------------------------

CONFIG = '{"dtype": "bfloat16",\n "note": "\\"dtype\\": \\"bfloat16\\"", "eps": 1.0e-5,'
CONFIG += '\n "text": {"torch_dtype" : "float32"}}'


@pytest.mark.parametrize(("dtype", "name"), [("f32", "float32"), ("f16", "float16")])
def test_the_type_in_the_configuration_follows(folder: Path, dtype: str, name: str) -> None:
    a, b = model(folder / "A", {"config.json": CONFIG}), model(folder / "B", {"config.json": CONFIG}, value=3)
    report = merge([a, b], out=folder / "M", dtype=dtype)
    expected = CONFIG.replace('"dtype": "bfloat16",', f'"dtype": "{name}",').replace(': "float32"', f': "{name}"')
    assert (report.out / "config.json").read_text() == expected
    assert ("dtype", "bfloat16", name) in [(c.key, c.before, c.after) for c in report.config_changes]


def test_a_type_that_is_there_stays(folder: Path) -> None:
    config = '{"dtype": "float32"}'
    report = merge([model(folder / "A", {"config.json": config})], out=folder / "M")
    assert (report.out / "config.json").read_text() == config and report.config_changes == ()


def lm(place: Path, tied: bool, *, head: float | None = None) -> Path:
    model(place, {"config.json": json.dumps({"tie_word_embeddings": tied})})
    tensors = {"model.embed_tokens.weight": f32(1, 2)} | ({} if head is None else {"lm_head.weight": f32(1, head)})
    write_safetensors(place / "model.safetensors", tensors)
    return place


def test_tied_weights_stay_tied(folder: Path) -> None:
    """A torch file has both names for the one tensor; a base may be tied otherwise than everything trained from it."""

    def tied(out: Path) -> bool:
        return bool(json.loads((out / "config.json").read_text())["tie_word_embeddings"])

    same, other, alone = lm(folder / "A", True, head=2), lm(folder / "B", True, head=3), lm(folder / "C", True)
    assert tied(merge([same], out=folder / "1").out)
    assert not tied(merge([other], out=folder / "2").out)
    assert tied(merge([alone], out=folder / "3").out)
    assert tied(merge([alone], base=lm(folder / "base", False), out=folder / "4").out)


# ---- what stands at OUT ----------------------------------------------------------------------------------------------


def test_an_earlier_result_with_all_that_belongs_to_it_is_replaced(folder: Path) -> None:
    texts = {"config.json": "{}", **dict.fromkeys(REMOTE, "{}")}
    a, b = model(folder / "A", texts), model(folder / "B", texts, value=3)
    out = merge([a], out=folder / "M", shard_bytes=4).out
    merge([a, b], out=out, force=True)
    assert set(contents(out)) == {"model.safetensors", *texts} and not leftovers(folder)
    c = model(folder / "C", {"config.json": "{}"}, value=9)
    before = contents(out)
    with pytest.raises(CheckpointError, match=r"such as 1_Pooling/config\.json, which --force would remove"):
        merge([c], out=out, force=True)  # it brings no such file, so it might be somebody's
    assert contents(out) == before and not leftovers(folder)


@pytest.mark.parametrize("name", ["optimizer.pt", "trainer_state.json", "sub/train.py", "a.csv", ".env"])
def test_force_keeps_what_is_not_a_checkpoints(folder: Path, name: str) -> None:
    a = model(folder / "A", {"config.json": "{}"})
    out = model(folder / "M", {"config.json": "{}", name: "precious"})
    before = contents(out)
    with pytest.raises(CheckpointError, match=f"such as {name}, which --force would remove"):
        merge([a], out=out, force=True)
    assert contents(out) == before


def test_one_file_does_not_come_between_shards(folder: Path) -> None:
    write_safetensors(folder / "a.safetensors", {"w": f32(1), "v": f32(2)})
    out = merge([folder / "a.safetensors"], out=folder / "M", shard_bytes=4).out
    before = contents(out)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"would stand beside model.*loaders would mix them.*--force"):
            merge([folder / "a.safetensors"], out=out / "model.safetensors", force=True)
        assert contents(out) == before
        (out / "model.safetensors.index.json").unlink(missing_ok=True)
        before.pop("model.safetensors.index.json", None)
    merge([folder / "a.safetensors"], out=out / "another.safetensors")


@pytest.mark.parametrize("out", ["out", "out.safetensors"])
def test_what_cannot_be_read_back_replaces_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    from spikemesh.checkpoint import output
    from spikemesh.errors import StoreError

    a = model(folder / "A", {"config.json": "{}"})
    merge([a], out=folder / out)
    before = contents(folder)
    real = output.OutputFile.write

    def damaged(file: output.OutputFile, offset: int, data: output.Bytes) -> None:
        data = data.copy()
        if offset == 0:
            data[9:20] = 7
        real(file, offset, data)

    monkeypatch.setattr(output.OutputFile, "write", damaged)
    with pytest.raises(StoreError, match="was written and cannot be read back"):
        merge([a], out=folder / out, force=True)
    assert contents(folder).keys() == before.keys()
    assert all(contents(folder)[name] == text for name, text in before.items() if not name.startswith("cache"))
