"""Two volunteers as processes that share a bucket and nothing else: they train, merge and end with one digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from spikemesh.cli.demo.swarm import Swarm, Volunteer, agree
from spikemesh.cli.folder import RunFolder
from tests.cli.test_swarm import spikemesh
from tests.s3_server import make_bucket, s3_server, use_s3
from tests.volunteers.crew import until


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_two_processes_that_share_only_a_bucket_end_with_one_digest(
    kind: str, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as endpoint:
        use_s3(monkeypatch, endpoint)
        bucket = str(tmp_path / "shared") if kind == "folder" else make_bucket("run")
        made = spikemesh("init", str(tmp_path / "one"), "--preset", "tiny", "--data", str(text), "--bucket", bucket)
        assert made.returncode == 0, made.stderr
        ticket = made.stdout.rpartition("ticket ")[2].strip()
        options = ["--data", str(text), "--bind", "127.0.0.1:0", "--threads", "1", "--shard"]
        first = Volunteer(RunFolder(tmp_path / "one"), [*options, "1/2"])
        # a path means another thing on another machine, so it is not in the ticket
        named = ["--bucket", bucket] if kind == "folder" else []
        second = Volunteer(RunFolder(tmp_path / "two"), [*options, "2/2", *named])
        with Swarm([first, second]) as swarm:
            second.start(ticket)  # before the founder: the bucket is enough
            first.start(str(first.folder.path))
            until(lambda: agree([member.statistics() for member in swarm]), [first, second])
            seen = [member.statistics() for member in swarm]
    for statistics in seen:
        assert statistics is not None
        assert statistics.num_peers == 0 and statistics.num_authors == 2
        assert statistics.buckets[0].problem is None and statistics.buckets[0].num_taken > 0
    assert bucket not in ticket and (tmp_path / "two" / "buckets.json").exists()


def test_a_bucket_without_the_run_is_explained(tmp_path: Path, text: Path) -> None:
    made = spikemesh(
        "init", str(tmp_path / "one"), "--preset", "tiny", "--data", str(text), "--bucket", str(tmp_path / "shared")
    )
    ticket = made.stdout.rpartition("ticket ")[2].strip()
    result = spikemesh(
        "join", ticket, "--folder", str(tmp_path / "two"), "--bind", "127.0.0.1:0", "--bucket", str(tmp_path / "empty")
    )
    assert result.returncode == 4, result.stderr
    result = spikemesh("join", ticket, "--folder", str(tmp_path / "three"), "--bucket", "s3://key:secret@name/run")
    assert result.returncode == 2 and "Keys do not belong" in result.stderr
    assert not (tmp_path / "three").exists()
