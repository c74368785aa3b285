"""`spikemesh merge`: what it prints for people and for programs, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import spikemesh
from spikemesh.checkpoint import merge as merge_files
from spikemesh.checkpoint import unmerge
from spikemesh.checkpoint.known import CACHE_VARIABLE
from spikemesh.cli.merge import parse_size
from tests.checkpoint.adapter_folders import write_adapter
from tests.checkpoint.files import (
    Raw,
    f32,
    i64,
    read_metadata,
    read_safetensors,
    torch_tensors,
    values,
    write_safetensors,
    write_torch,
)
from tests.cli.conftest import Run
from tests.machine import small_disk

HOSTILE = "w\x1b[2J\x9b\u202e\n"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    write_safetensors(tmp_path / "a.safetensors", {"w": f32(1, 0, 3), "ids": i64(1)})
    write_safetensors(tmp_path / "b.safetensors", {"w": f32(3, 2, 0), "v": f32(1e-9)})
    return tmp_path


def test_what_it_says(run: Run, files: Path) -> None:
    code, stdout, stderr = run("merge", "a.safetensors", "b.safetensors", "-o", "out.safetensors")
    assert (code, stderr) == (0, "")
    first, *leaves, kept = stdout.splitlines()
    assert first.startswith("out.safetensors: 3 tensors, 24 bytes, 100.0% not zero; active-mean of 2 checkpoints in ")
    assert sorted(line.split()[-1] for line in leaves) == ["a.safetensors", "b.safetensors"]
    assert all(line.startswith("  weight 1  content ") for line in leaves)
    assert kept == "Not in all inputs, and kept (2 of 3 tensors): ids, v."
    assert values(read_safetensors(files / "out.safetensors")["w"]) == [2, 2, 3]


def test_what_it_says_to_programs(run: Run, files: Path) -> None:
    code, stdout, stderr = run(
        *("merge", "a.safetensors", "b.safetensors", "-o", "out", "--weight", "0.7", "--weight", "0.3"),
        *("--rule", "sum", "--dtype", "f16", "--shard-size", "4B", "--json"),
    )
    assert (code, stderr) == (0, "")
    facts = json.loads(stdout)
    assert facts["out"] == "out" and facts["rule"] == "sum" and facts["dtype"] == "f16"
    assert {leaf["path"]: leaf["weight"] for leaf in facts["leaves"]} == {
        "a.safetensors": "7/10",
        "b.safetensors": "3/10",
    }
    assert facts["partly_held"] == {"ids": ["a.safetensors"], "v": ["b.safetensors"]}
    assert facts["vanished"] == {"v": 1}
    assert (facts["num_tensors"], facts["bytes_read"], facts["bytes_written"]) == (3, 36, 16)
    assert facts["density"] == 0.75 and facts["base"] is None and facts["calibration"] is None
    assert len(list((files / "out").glob("*.safetensors"))) == 3


def test_what_was_left_out_chosen_or_lost_is_said(run: Run, files: Path) -> None:
    for name, text in (("x", "one"), ("y", "two")):
        (files / name).mkdir()
        write_torch(files / name / "pytorch_model.bin", {**torch_tensors({name: f32(1e-9)}), "epoch": 1, "lr": 0.1})
        (files / name / "config.json").write_text(text)
    _, stdout, _ = run("merge", "x", "y", "-o", "out", "--dtype", "f16", "--disjoint")
    assert "Left out of x, as no tensor of the checkpoint: epoch, lr." in stdout
    assert "2 values were too small for f16 and became zero, in x, y." in stdout
    assert "Another input has these differently: config.json." in stdout


def test_what_stands_beside_the_weights_is_said(run: Run, files: Path) -> None:
    """From where it comes, what was changed in it, and what was left behind where."""
    for name, value in (("x", 1), ("y", 3)):
        (files / name).mkdir()
        write_safetensors(files / name / "model.safetensors", {"w": f32(value)})
        (files / name / "config.json").write_text('{"dtype": "float32"}')
        (files / name / "README.md").write_text(name)
    (files / "y" / "vocab.txt").write_text("only y")
    arguments = ("merge", "x", "y", "--weight", "0.9", "--weight", "0.1", "--dtype", "f16", "-o", "out")
    _, stdout, _ = run(*arguments)
    assert stdout.splitlines()[3:] == [
        "Configuration and tokenizer are of x: config.json.",
        "In its config.json, dtype was float32 and is float16, as the tensors are.",
        "Left behind in x, y: README.md (describes that model, not the result).",
        "Left behind in y: vocab.txt (not in x).",
    ]
    _, stdout, _ = run(*arguments, "--force", "--json", "--companions-from", "y")
    assert json.loads(stdout)["companions"] == {
        "from": "y",
        "files": ["config.json", "vocab.txt"],
        "changed": [{"key": "dtype", "before": "float32", "after": "float16"}],
        "left": {name: {"README.md": "describes that model, not the result"} for name in "xy"},
    }
    code, stdout, _ = run(*arguments, "--dry-run")
    assert code == 0 and stdout.splitlines()[-3:] == [
        "Configuration and tokenizer are of x: config.json.",
        "Left behind in x, y: README.md (describes that model, not the result).",
        "Left behind in y: vocab.txt (not in x).",
    ]
    _, stdout, _ = run(*arguments, "--dry-run", "--json")
    assert json.loads(stdout)["companions"]["files"] == ["config.json"]


def test_rows_that_were_matched_by_tokens_are_said(run: Run, files: Path) -> None:
    for name, tokens in (("base", ["p", "q"]), ("x", ["q", "new", "p"])):
        (files / name).mkdir()
        rows = f32(*range(len(tokens) + 1), shape=(len(tokens) + 1, 1))
        write_safetensors(files / name / "model.safetensors", {"embed_tokens.weight": rows})
        (files / name / "config.json").write_text("{}")
        vocabulary = {token: number for number, token in enumerate(tokens)}
        (files / name / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    arguments = ("merge", "x", "--base", "base", "--vocab", "base", "-o", "out")
    expected = [
        "Rows of embed_tokens.weight are matched by tokens, and are those of base/tokenizer.json: 3, of which 1 stand "
        "for no token.",
        "Tokens of x that are not among them, left out (1): new.",
        "Configuration and tokenizer are of base: config.json, tokenizer.json.",
        "Another input has these differently: tokenizer.json.",
    ]
    code, stdout, _ = run(*arguments, "--dry-run")
    assert code == 0 and stdout.splitlines()[-4:] == expected
    code, stdout, _ = run(*arguments)
    assert code == 0 and stdout.splitlines()[-4:] == expected
    assert "rows matched by tokens" in run("inspect", "out")[1]
    _, stdout, _ = run(*arguments, "--force", "--json")
    assert json.loads(stdout)["vocab"] == "base" and json.loads(stdout)["matched"]["without_row"] == {"x": ["new"]}
    assert run("verify", "out", "x", "--base", "base")[0] == 0
    code, _, stderr = run("merge", "x", "base", "--vocab", "all", "-o", "no")
    assert code == 2 and "expected a vocabulary of base, union" in " ".join(stderr.split())


def test_a_small_result_takes_a_small_disk(run: Run, files: Path) -> None:
    (files / "small").mkdir()
    with small_disk(files / "small", "5m") as disk:
        assert run("merge", "a.safetensors", "-o", "small/out.safetensors")[0] == 0
        write_safetensors(files / "large.safetensors", {"w": f32(*range(10**6))})
        code, _, stderr = run("merge", "large.safetensors", "-o", "small/large.safetensors")
        assert (
            code == 5 and "the result takes 4.0 MB, 4.0 MB are to stay free beside it, and the disk of small" in stderr
        )
        assert [path.name for path in disk.iterdir()] == ["out.safetensors"]


def test_a_name_of_another_format_is_refused(run: Run, files: Path) -> None:
    code, _, stderr = run("merge", "a.safetensors", "-o", "merged.pt")
    assert code == 11 and "such as merged.safetensors, or one without .pt for a folder" in stderr
    assert not (files / "merged.pt").exists()


def test_many_names_are_counted(run: Run, files: Path) -> None:
    write_safetensors(files / "c.safetensors", {f"c{i}": f32(i) for i in range(8)})
    _, stdout, _ = run("merge", "a.safetensors", "c.safetensors", "-o", "out.safetensors", "--disjoint")
    assert "kept (10 of 10 tensors): c0, c1, c2, c3, c4 and 5 more." in stdout


def test_base_mask_and_as_is(run: Run, files: Path) -> None:
    write_safetensors(files / "base.safetensors", {"w": f32(1, 1, 1)})
    write_safetensors(files / "mask.safetensors", {"w_mask": f32(1, 1, 1)})
    arguments = ("merge", "a.safetensors", "b.safetensors", "--base", "base.safetensors", "-o", "out.safetensors")
    assert run(*arguments)[0] == 0
    assert values(read_safetensors(files / "out.safetensors")["w"]) == [3, 1, 1.5]
    assert run(*arguments, "--mask-from", "mask.safetensors", "--force")[0] == 0
    assert values(read_safetensors(files / "out.safetensors")["w"]) == [2, 1, 1.5]
    assert run("merge", "out.safetensors", "a.safetensors", "--as-is", "-o", "as-is.safetensors")[0] == 0
    assert values(read_safetensors(files / "as-is.safetensors")["w"]) == [1.5, 1, 2.25]


def test_hostile_names_do_not_reach_the_terminal(run: Run, files: Path) -> None:
    write_safetensors(files / "c.safetensors", {HOSTILE: f32(1e-9)})
    write_torch(files / "d.pt", {HOSTILE + "no": 1, **torch_tensors({"v": f32(1e-9)})})
    for arguments in (
        ("merge", "c.safetensors", "d.pt", "-o", "out.safetensors", "--dtype", "f16", "--disjoint"),
        ("merge", "c.safetensors", "d.pt", "-o", "other.safetensors"),
        ("inspect", "c.safetensors"),
        ("merge", "c.safetensors", "e.safetensors", "-o", "other.safetensors"),
        ("merge", "f.safetensors", "-o", "other.safetensors"),
        ("inspect", "g.safetensors"),
    ):
        write_safetensors(files / "e.safetensors", {HOSTILE: f32(1, 2)})
        write_safetensors(files / "f.safetensors", {"w": f32(1)}, {"spikemesh.merge": f'{{"format": "{HOSTILE}'})
        write_safetensors(files / "g.safetensors", {"w": Raw("F32", (1,), f32(1).data)})
        data = (files / "g.safetensors").read_bytes().replace(b'"F32"', b'"\\u001b[2J"')
        (files / "g.safetensors").write_bytes((len(data) - 12).to_bytes(8, "little") + data[8:])
        code, stdout, stderr = run(*arguments)
        assert code in (0, 10, 11)
        for char in "\x1b\x9b\u202e":
            assert char not in stdout + stderr, arguments


def test_names_that_are_no_text(run: Run, files: Path) -> None:
    strange = os.fsdecode(b"\xff.safetensors")
    shutil.copy("a.safetensors", strange)
    code, stdout, _ = run("merge", strange, "-o", os.fsdecode(b"\xfe.safetensors"))
    assert code == 0 and "\\udcfe.safetensors: 2 tensors" in stdout and "\\udcff.safetensors" in stdout
    code, stdout, _ = run("merge", strange, "-o", "out.safetensors", "--json")
    assert code == 0 and json.loads(stdout)["leaves"][0]["path"] == "\ufffd.safetensors"
    code, stdout, _ = run("verify", os.fsdecode(b"\xfe.safetensors"), strange)
    assert code == 0 and "\\udcfe.safetensors is what its 1 input gives" in stdout
    code, stdout, _ = run("inspect", os.fsdecode(b"\xfe.safetensors"))
    assert code == 0 and "\n\\udcfe.safetensors: 2 tensors" in stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["gone", "-o", "out.safetensors"], 11, "spikemesh: gone is not there."),
        (["a.safetensors", "-o", "b.safetensors"], 11, "b.safetensors is already there. Choose another name"),
        (["a.safetensors", "-o", "x/out"], 11, "the folder x is not there"),
        (["a.safetensors", "c.safetensors", "-o", "out.safetensors"], 11, "do not fit together"),
        (["cut.safetensors", "-o", "out.safetensors"], 10, "is not a whole safetensors file"),
        (["nan.safetensors", "a.safetensors", "-o", "out.safetensors"], 10, "has NaN or an infinity in tensor 'w'"),
        (["a.safetensors", "-o", "out.safetensors", "--weight", "x"], 2, "expected a weight such as 1, 0.7 or 2/3"),
        (["a.safetensors", "-o", "out.safetensors", "--weight", "1", "--weight", "1"], 2, "got 2 for 1"),
        (["a.safetensors", "-o", "out.safetensors", "--rule", "median"], 2, "expected a rule of active-mean"),
        (["a.safetensors", "-o", "out.safetensors", "--dtype", "int8"], 2, "expected a type of keep"),
        (["a.safetensors", "-o", "out", "--shard-size", "lots"], 2, "expected a size such as 5GB"),
        (["a.safetensors", "-o", "out.safetensors", "--shard-size", "5GB"], 11, "is one file; shards go into a folder"),
        (["a.safetensors"], 2, "Missing option"),
        (["-o", "out"], 2, "expected at least one checkpoint"),
    ],
)
def test_how_it_fails(run: Run, files: Path, arguments: list[str], code: int, words: str) -> None:
    write_safetensors(files / "c.safetensors", {"w": f32(1)})
    write_safetensors(files / "nan.safetensors", {"w": f32(float("nan"), 1, 1)})
    (files / "cut.safetensors").write_bytes((files / "a.safetensors").read_bytes()[:-1])
    before = {path: path.stat().st_mtime_ns for path in files.glob("*.safetensors")}
    seen, stdout, stderr = run("merge", *arguments)
    assert (seen, stdout) == (code, "")
    assert words in " ".join(stderr.replace("│", " ").split()) and "Traceback" not in stderr
    assert {path: path.stat().st_mtime_ns for path in files.glob("*.safetensors")} == before


def test_force_replaces(run: Run, files: Path) -> None:
    assert run("merge", "a.safetensors", "b.safetensors", "-o", "a.safetensors", "--force")[0] == 0
    assert values(read_safetensors(files / "a.safetensors")["w"]) == [2, 2, 3]
    assert "spikemesh.merge" in read_metadata(files / "a.safetensors")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5 * 10**9),
        ("500 MB", 5 * 10**8),
        ("1.5gb", 15 * 10**8),
        ("12", 12),
        ("7KB", 7000),
        (" 2TB ", 2 * 10**12),
        ("3B", 3),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "0", "-1GB", "GB", "1e9", "5GiB", "0.1B", "inf", "nan", "9" * 400, "5 5GB", "1_000"]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected a size such as 5GB"):
        parse_size(text)


def test_help_loads_little_and_names_everything(files: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "spikemesh", "merge", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    options = ("--base", "--weight", "--rule", "--dtype", "--mask-from", "--shard-size", "--as-is", "--force", "--json")
    assert all(option in done.stdout for option in options)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "numpy", "safetensors"}


def test_a_terminal_sees_a_bar_and_a_pipe_does_not(files: Path) -> None:
    """A bar needs a terminal; what is printed at the end goes to stdout alone."""
    command = [
        sys.executable,
        "-m",
        "spikemesh",
        "merge",
        "a.safetensors",
        "b.safetensors",
        "-o",
        "out.safetensors",
        "--force",
    ]
    piped = subprocess.run(command, capture_output=True, text=True)
    assert piped.returncode == 0 and piped.stderr == "" and "3 tensors" in piped.stdout
    master, slave = pty.openpty()
    env = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, env=env)
    os.close(slave)
    drawn = b""
    while running.poll() is None or select.select([master], [], [], 0)[0]:
        if select.select([master], [], [], 0.05)[0]:
            try:
                drawn += os.read(master, 4096)
            except OSError:  # the other end is closed
                break
    os.close(master)
    assert running.wait() == 0
    assert b"merging" in drawn and b"tensors" not in drawn


def test_python_has_the_same(files: Path) -> None:
    import spikemesh

    report = spikemesh.merge(["a.safetensors", "b.safetensors"], out="out.safetensors")
    assert spikemesh.verify("out.safetensors", ["a.safetensors", "b.safetensors"]).differences == ()
    assert spikemesh.inspect("out.safetensors").checksum == report.checksum
    assert spikemesh.merge is merge_files
    assert spikemesh.unmerge is unmerge and "bit for bit" in (unmerge.__doc__ or "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.safetensors", "--from-folder", "."], "--from-folder is for --recipe and --again"),
        (["--recipe", "r.toml", "--again", "m.safetensors"], "give one of them"),
        (["--again", "m.safetensors", "--keep-remainder"], "--keep-remainder: a recipe says everything"),
        (["--again", "m.safetensors", "--skip", "v", "--dry-run"], "--skip, --dry-run: a recipe says everything"),
        (["adapter", "--companions-from", ".", "--skip", "v"], "--skip, --companions-from: not for adapters"),
    ],
)
def test_an_option_without_a_part_in_the_merge_is_refused(
    run: Run, files: Path, arguments: list[str], words: str
) -> None:
    merge_files(["a.safetensors", "b.safetensors"], out="m.safetensors")
    write_adapter(files / "adapter", seed=1)
    code, stdout, stderr = run("merge", *arguments, "-o", "out.safetensors")
    assert (code, stdout) == (2, "") and words in " ".join(stderr.replace("│", " ").split())
    assert not (files / "out.safetensors").exists()


def test_companions_from_what_is_no_folder(run: Run, files: Path) -> None:
    for name in ("gone", "a.safetensors"):
        code, _, stderr = run("merge", "a.safetensors", "b.safetensors", "-o", "out", "--companions-from", name)
        assert code == 11 and f"{name} is not a folder" in stderr and not (files / "out").exists()


def test_its_version(run: Run) -> None:
    assert run("--version") == (0, f"spikemesh {spikemesh.__version__}\n", "")


def test_what_was_taken_or_weighed_otherwise_is_said(run: Run, files: Path) -> None:
    options = ["--take", "w=b.safetensors", "--weight-of", "a.safetensors:ids=0.5"]
    code, stdout, _ = run("merge", "a.safetensors", "b.safetensors", "-o", "out.safetensors", *options)
    assert code == 0 and "\nTaken as they are from b.safetensors: w.\n" in stdout
    assert "\nIn ids the weight of a.safetensors is 1/2.\n" in stdout
    from_base = ["--take", "v=base"]
    code, stdout, _ = run("merge", "a.safetensors", "b.safetensors", "-o", "o", "--base", "b.safetensors", *from_base)
    assert code == 0 and "\nTaken as they are from the base: v.\n" in stdout


def test_one_is_one(run: Run, files: Path) -> None:
    write_safetensors(files / "one.safetensors", {"w": f32(1)})
    _, stdout, _ = run("merge", "one.safetensors", "-o", "m.safetensors", "--dry-run")
    assert "Would be 1 tensor, " in stdout and "of 1 checkpoint. " in stdout
    _, stdout, _ = run("merge", "one.safetensors", "-o", "m.safetensors")
    assert ": 1 tensor, " in stdout and "active-mean of 1 checkpoint in" in stdout
    _, stdout, _ = run("inspect", "m.safetensors")
    assert ": 1 tensor, 1 element, " in stdout and "from 1 checkpoint:" in stdout
    _, stdout, _ = run("verify", "m.safetensors")
    assert "its 1 input gives by active-mean: 1 tensor, " in stdout
