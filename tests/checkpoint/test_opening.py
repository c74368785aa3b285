"""Whatever a user has: PyTorch files of any nesting, shards, published folders; and how they are told apart."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from spikemesh.checkpoint import inspect, merge, open_checkpoint
from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.kernels import ELEMENTS
from tests.checkpoint.files import (
    Raw,
    Tensors,
    f32,
    i64,
    read_safetensors,
    torch_tensors,
    values,
    write_safetensors,
    write_shards,
    write_torch,
)

ONE = {"w": f32(1, 2), "ids": i64(3)}


def read_all(path: Path) -> Tensors:
    """Every tensor of a checkpoint, by our reader."""
    checkpoint = open_checkpoint(path)
    found = {}
    for name, tensor in checkpoint.tensors.items():
        data = bytearray(tensor.size_bytes)
        tensor.read(0, memoryview(data))
        found[name] = Raw(tensor.element.name, tensor.shape, bytes(data))
    checkpoint.close()
    return found


# ---- PyTorch files ---------------------------------------------------------------------------------------------------


def test_a_training_checkpoint_is_flattened_and_what_is_no_tensor_is_named(folder: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = {
        "model_state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 7,
        "history": [0.5, {"loss": torch.tensor(0.25), "note": None}],
        "config": OrderedDict(name="x"),
        "nothing": {},
    }
    opened = open_checkpoint(write_torch(folder / "training.pt", saved))
    moments = {f"optimizer.state.{i}.{name}" for i in (0, 1) for name in ("exp_avg", "exp_avg_sq", "step")}
    assert set(opened.tensors) == {
        "model_state_dict.weight",
        "model_state_dict.bias",
        "history.1.loss",
        *moments,
    }
    assert list(opened.tensors) == sorted(opened.tensors)
    assert {"epoch", "history.0", "history.1.note", "config.name", "optimizer.param_groups.0.lr"} <= set(
        opened.left_out
    )
    report = merge([folder / "training.pt"], out=folder / "out.safetensors")
    assert report.left_out == {str(folder / "training.pt"): opened.left_out}
    raw = read_safetensors(report.out)["model_state_dict.weight"]
    assert values(raw) == model.weight.detach().reshape(-1).tolist()


def views() -> dict[str, torch.Tensor]:
    whole = torch.arange(60, dtype=torch.float32)
    return {
        "transposed": whole.reshape(6, 10).t(),
        "permuted": whole.reshape(3, 4, 5).permute(2, 0, 1),
        "sliced": whole.reshape(6, 10)[1:5:2, 3:],
        "strided": whole[5::7],
        "expanded": whole[:3].reshape(3, 1).expand(3, 4),
        "from one": torch.tensor(2.5).expand(2, 3),
        "lonely": torch.empty_strided((1,), (4,)).fill_(3.0),
        "lonely row": torch.empty_strided((1, 1, 2), (7, 5, 3)).fill_(4.0),
        "scalar": whole[7],
        "empty": whole[:0],
        "empty rows": whole[:0].reshape(3, 0),
        "parameter": torch.nn.Parameter(whole[:4].reshape(2, 2).t()),
        "tied": whole,
    }


def test_views_of_any_strides_and_shared_storage_are_read_as_they_look(folder: Path) -> None:
    tensors = views()
    found = read_all(write_torch(folder / "views.pt", tensors))
    for name, tensor in tensors.items():
        flat = tensor.detach().contiguous().reshape(-1).tolist()
        assert found[name].shape == tuple(tensor.shape)
        assert values(found[name]) == flat, name


def test_any_part_of_a_view_is_read_alone(folder: Path) -> None:
    tensors = views()
    opened = open_checkpoint(write_torch(folder / "views.pt", tensors))
    for name, tensor in tensors.items():
        data = tensor.detach().contiguous().reshape(-1).numpy().tobytes()
        for start in range(0, len(data) + 1, 4):
            for end in range(start, len(data) + 1, 12):
                part = bytearray(end - start)
                opened.tensors[name].read(start, memoryview(part))
                assert part == data[start:end], name


def test_a_part_of_a_wide_transposed_tensor_copies_that_part_alone(folder: Path) -> None:
    """Two rows of 8 MB: gathering all of a row for each stretch would take quadratic time, and its memory."""
    wide = torch.zeros(2_000_000, 2).t()
    tensor = open_checkpoint(write_torch(folder / "wide.pt", {"w": wide})).tensors["w"]
    allocated: list[int] = []
    real = torch.Tensor.clone
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "clone", lambda t, **kw: (allocated.append(t.nbytes), real(t, **kw))[1])
        tensor.read(4 * 1_999_990, memoryview(bytearray(80)))
    assert sum(allocated) == 80


def test_every_type_is_read_alike_from_every_container(folder: Path) -> None:
    """The container does not count: the contents are equal."""
    tensors = {
        name: Raw(name, (2, 3), bytes(i % 2 for i in range(6 * element.size_bytes)))
        for name, element in ELEMENTS.items()
    }
    paths = [
        write_safetensors(folder / "a.safetensors", tensors),
        write_safetensors(folder / "b.safetensors", dict(reversed(tensors.items())), {"other": "words"}),
        write_torch(folder / "c.pt", torch_tensors(tensors)),
        write_shards(folder / "d", tensors, 4),
        folder / "d" / "model.safetensors.index.json",
    ]
    assert all(read_all(path) == dict(sorted(tensors.items())) for path in paths)
    assert len({inspect(path).content for path in paths}) == 1
    report = merge(paths, out=folder / "out.safetensors")
    assert len(report.leaves) == 1
    assert read_safetensors(report.out) == tensors


@pytest.mark.parametrize(
    "other",
    [
        {"w": f32(1, 3), "ids": i64(3)},
        {"v": f32(1, 2), "ids": i64(3)},
        {"w": f32(1, 2, shape=(2, 1)), "ids": i64(3)},
        {"w": Raw("I32", (2,), f32(1, 2).data), "ids": i64(3)},
        {"w": f32(1, 2)},
        {"w": f32(1, 2), "ids": i64(3), "more": f32()},
    ],
)
def test_contents_differ_if_anything_of_a_tensor_does(folder: Path, other: Tensors) -> None:
    paths = [write_safetensors(folder / f"{i}.safetensors", tensors) for i, tensors in enumerate((ONE, other))]
    first, second = (inspect(path).content for path in paths)
    assert first != second


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (torch.ones(2), ["tensor"]),
        ([torch.ones(1), (torch.ones(1),)], ["0", "1.0"]),
        ({"": torch.ones(1)}, ["tensor"]),
        ({1: {2.5: torch.ones(1)}, None: torch.ones(1)}, ["1.2.5", "None"]),
        ({"a": 1, "a.b": 2, "c": torch.ones(1)}, ["c"]),
        ({"a": {"b": 1}, "a.b": torch.ones(1)}, ["a.b"]),
        ({"a.b": torch.ones(1), "a": {"b": 1}}, ["a.b"]),
    ],
)
def test_names_of_what_is_nested(folder: Path, value: Any, names: list[str]) -> None:
    assert list(open_checkpoint(write_torch(folder / "a.pt", value)).tensors) == names


@pytest.mark.parametrize(
    "value", [{"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}, {1: torch.ones(1), "1": torch.ones(1)}]
)
def test_two_tensors_of_one_name_are_refused(folder: Path, value: Any) -> None:
    with pytest.raises(InvalidData, match=r"a\.pt holds two tensors named '(a\.b|1)'"):
        open_checkpoint(write_torch(folder / "a.pt", value))


@pytest.mark.parametrize(
    ("tensor", "seen"),
    [
        (torch.ones(2, dtype=torch.complex64), "torch.complex64"),
        (torch.eye(2).to_sparse(), "torch.sparse_coo"),
        (torch.ones(2, device="meta"), "meta"),
    ],
)
def test_tensors_that_have_no_mean_are_refused(folder: Path, tensor: torch.Tensor, seen: str) -> None:
    with pytest.raises(InvalidData, match=f"expected a dense tensor of .* in 'w', got .*{seen}"):
        open_checkpoint(write_torch(folder / "a.pt", {"w": tensor}))


def test_files_are_told_apart_by_what_is_in_them(folder: Path) -> None:
    assert read_all(write_safetensors(folder / "a.pt", ONE)) == ONE
    assert read_all(write_torch(folder / "b.model", torch_tensors(ONE))) == dict(sorted(ONE.items()))
    with pytest.raises(InvalidData, match=r"c\.safetensors is a PyTorch file .* Rename it to end in \.pt"):
        open_checkpoint(write_torch(folder / "c.safetensors", torch_tensors(ONE)))


@pytest.mark.parametrize("length", [0x80, 0x180, 0x280, 0x380, 0x480, 0x580])
def test_a_header_whose_length_looks_like_a_pickle_is_read(folder: Path, length: int) -> None:
    for size in range(length):
        path = write_safetensors(folder / "a.safetensors", {"w": f32(1)}, {"x": "y" * size})
        if path.read_bytes()[:2] == length.to_bytes(2, "little"):
            break
    assert read_all(path) == {"w": f32(1)}


# ---- shards and folders ----------------------------------------------------------------------------------------------


def test_shards_of_pytorch_files(folder: Path) -> None:
    write_torch(folder / "1.bin", {"w": torch.tensor([1.0, 2.0])})
    write_torch(folder / "2.bin", {"ids": torch.tensor([3]), "extra": torch.ones(1), "epoch": 3})
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "1.bin", "ids": "2.bin"}}))
    opened = open_checkpoint(folder)
    assert read_all(folder) == {"ids": i64(3), "w": f32(1, 2)}
    assert "2.bin: extra" in opened.left_out


def test_a_folder_may_have_one_file_of_any_name(folder: Path) -> None:
    write_safetensors(folder / "adapter.safetensors", ONE)
    assert read_all(folder) == dict(sorted(ONE.items()))
    write_safetensors(folder / "other.safetensors", ONE)
    with pytest.raises(CheckpointError, match=r"found adapter\.safetensors, other\.safetensors\. Name the file itself"):
        open_checkpoint(folder)
    write_safetensors(folder / "model.safetensors", {"w": f32(9)})
    assert read_all(folder) == {"w": f32(9)}


def test_the_index_of_the_model_comes_before_those_of_its_variants(folder: Path) -> None:
    for name in ("model.fp16.safetensors", "model.safetensors", "pytorch_model.bin"):
        write_safetensors(folder / f"{name}.shard", {name: f32(1)})
        text = json.dumps({"weight_map": {name: f"{name}.shard"}})
        (folder / f"{name}.index.json").write_text(text)
    assert list(read_all(folder)) == ["model.safetensors"]


@pytest.mark.parametrize("content", [[], ["README.md"], ["config.json"]])
def test_a_folder_without_weights_is_refused(folder: Path, content: list[str]) -> None:
    for name in content:
        (folder / name).write_text("{}")
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors, an index .* found no \.safetensors file"):
        open_checkpoint(folder)


def published(folder: Path, tensors: Tensors, **texts: str) -> Path:
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", tensors)
    for name, text in {"config.json": "{}", **{k.replace("_", "."): v for k, v in texts.items()}}.items():
        (folder / name).write_text(text)
    return folder


def test_configuration_and_tokenizer_are_carried_along(folder: Path) -> None:
    a = published(folder / "a", {"w": f32(1)}, tokenizer_json="same", vocab_txt="a", README_md="no", script_py="no")
    b = published(folder / "b", {"w": f32(3)}, tokenizer_json="same", vocab_txt="b", merges_txt="only b")
    (a / "folder.json").mkdir()
    os.mkfifo(b / "pipe.json")
    orders = [merge(order, out=folder / f"out{i}") for i, order in enumerate(([a, b], [b, a], [a, a, b]))]
    for report in orders:
        names = {"model.safetensors", "config.json", "tokenizer.json", "vocab.txt", "merges.txt"}
        assert {path.name for path in report.out.iterdir()} == names
        assert report.companions.differing == ("vocab.txt",)
        assert (report.out / "vocab.txt").read_text() in ("a", "b")
        assert values(read_safetensors(report.out / "model.safetensors")["w"]) == [2]
        for name in names:
            assert (report.out / name).read_bytes() == (orders[0].out / name).read_bytes()
    again = merge([orders[0].out, a], out=folder / "again")
    assert (again.out / "vocab.txt").read_bytes() == (orders[0].out / "vocab.txt").read_bytes()
    single = merge([a, b], out=folder / "out.safetensors")
    assert single.companions.differing == ()
    bare = merge([a / "model.safetensors", b / "model.safetensors"], out=folder / "bare")
    assert [path.name for path in bare.out.iterdir()] == ["model.safetensors"]


def test_without_a_config_nothing_is_carried_along(folder: Path) -> None:
    (folder / "a").mkdir()
    write_safetensors(folder / "a" / "model.safetensors", ONE)
    (folder / "a" / "notes.txt").write_text("mine")
    report = merge([folder / "a"], out=folder / "out")
    assert [path.name for path in report.out.iterdir()] == ["model.safetensors"]


def test_a_result_in_shards_is_read_back_and_is_the_same_content(folder: Path) -> None:
    tensors = {f"w{i}": f32(*range(i, i + 50)) for i in range(10)} | {"ids": i64(*range(50))}
    a = write_safetensors(folder / "a.safetensors", tensors)
    whole = merge([a], out=folder / "out.safetensors")
    parts = merge([a], out=folder / "out", shard_bytes=500)
    shards = sorted(path.name for path in parts.out.glob("*.safetensors"))
    assert shards == [f"model-{i:05}-of-00006.safetensors" for i in range(1, 7)]
    assert all(sum(len(raw.data) for raw in read_safetensors(parts.out / name).values()) <= 500 for name in shards)
    assert read_all(parts.out) == dict(sorted(tensors.items()))
    assert parts.checksum == whole.checksum == inspect(parts.out).checksum
    one = merge([a], out=folder / "tiny", shard_bytes=1)
    assert len(list(one.out.glob("*.safetensors"))) == len(tensors)
    assert (
        merge([one.out, parts.out, whole.out], out=folder / "again.safetensors").out.read_bytes()
        == whole.out.read_bytes()
    )


def test_published_libraries_read_the_result(folder: Path) -> None:
    from safetensors.torch import load_file

    tensors = {name: Raw(name, (3,), bytes(3 * element.size_bytes)) for name, element in ELEMENTS.items()}
    path = write_safetensors(folder / "a.safetensors", {**tensors, "odd": f32(1, 2, 3), 'é"\n': f32(4)})
    loaded = load_file(merge([path], out=folder / "out.safetensors").out)
    assert loaded["odd"].tolist() == [1, 2, 3] and loaded['é"\n'].tolist() == [4]
    assert str(loaded["F8_E4M3"].dtype) == "torch.float8_e4m3fn" and loaded["BOOL"].dtype == torch.bool


def test_file_names_need_not_be_text(folder: Path) -> None:
    strange = Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.safetensors"))
    write_safetensors(strange, ONE)
    report = merge([strange, strange], out=Path(os.fsdecode(os.fsencode(folder) + b"/\xfd.safetensors")))
    assert read_safetensors(report.out) == ONE
    other = write_safetensors(folder / "b.safetensors", {"w": f32(5, 6)})
    assert len(merge([report.out, other], out=folder / "out.safetensors").leaves) == 2


def num_open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_opening_closes_what_it_opened(folder: Path) -> None:
    paths = [write_safetensors(folder / "a.safetensors", ONE), write_shards(folder / "b", ONE)]
    before = num_open()
    for path in paths:
        open_checkpoint(path).close()
    (folder / "b" / "model-00002-of-00002.safetensors").write_bytes(b"cut")
    with pytest.raises(InvalidData):
        open_checkpoint(folder / "b")
    assert num_open() == before
    inspect(paths[0])
    merge(paths[:1], out=folder / "out.safetensors")
    merge(paths[:1], out=folder / "out", shard_bytes=1)
    assert num_open() == before


def test_an_empty_file_is_called_empty(folder: Path) -> None:
    (folder / "a.pt").touch()
    with pytest.raises(InvalidData, match=r"a\.pt is empty"):
        open_checkpoint(folder / "a.pt")


def test_shards_without_their_index_ask_for_it(folder: Path) -> None:
    for number in (1, 2):
        write_safetensors(folder / f"model-0000{number}-of-00002.safetensors", {str(number): f32(1)})
    with pytest.raises(CheckpointError, match=r"no index .* Download model\.safetensors\.index\.json"):
        open_checkpoint(folder)


def test_a_tensor_that_two_shards_have_is_that_of_the_index(folder: Path) -> None:
    write_safetensors(folder / "x.safetensors", {"w": f32(1)})
    write_safetensors(folder / "y.safetensors", {"w": f32(2), "v": f32(3)})
    text = json.dumps({"weight_map": {"w": "x.safetensors", "v": "y.safetensors"}})
    (folder / "model.safetensors.index.json").write_text(text)
    assert read_all(folder) == {"v": f32(3), "w": f32(1)}
    assert open_checkpoint(folder).left_out == ("y.safetensors: w",)
