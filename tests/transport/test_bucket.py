"""A bucket on a local folder and on an S3 server over HTTP: the same answers, bounds and errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from tests.s3_server import make_bucket, s3_server, use_s3

from spikemesh.errors import InvalidData, TransportError
from spikemesh.transport.bucket import Bucket

NUMBERS = count()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> str:
    if request.param == "folder":
        return str(tmp_path / "bucket")
    use_s3(monkeypatch, endpoint)
    return make_bucket(f"bucket-{next(NUMBERS)}")


def test_what_is_put_is_there_whole_and_by_its_name(url: str) -> None:
    bucket = Bucket(url)
    assert bucket.page("records") == [] and bucket.get("records/a", max_bytes=9) is None
    bucket.put("records/a/1", b"one")
    bucket.put("records/a/1", b"one")
    bucket.put("records/b/2", b"")
    assert bucket.get("records/a/1", max_bytes=3) == b"one"
    assert bucket.get("records/b/2", max_bytes=3) == b""
    assert bucket.page("records") == [("a", 0), ("b", 0)]
    assert bucket.page("records/a") == [("1", 3)]
    bucket.delete("records/a/1")
    bucket.delete("records/a/1")
    assert bucket.get("records/a/1", max_bytes=3) is None
    assert Bucket(url).page("records/b") == [("2", 0)]  # another process sees the same


def test_listings_come_in_pages_that_end(url: str) -> None:
    bucket = Bucket(url)
    names = [f"{n:03d}" for n in range(25)]
    for name in names:
        bucket.put(f"x/{name}", name.encode())
    seen: list[str] = []
    while page := bucket.page("x", after=seen[-1] if seen else "", limit=10):
        assert len(page) <= 10
        seen += [name for name, _ in page]
    assert seen == names
    assert bucket.page("x", limit=10**9)[-1] == ("024", 3)


def test_an_object_larger_than_asked_for_is_not_read(url: str) -> None:
    bucket = Bucket(url)
    bucket.put("x", bytes(1000))
    assert bucket.get("x", max_bytes=1000) == bytes(1000)
    with pytest.raises(InvalidData, match="more than the 999 bytes"):
        bucket.get("x", max_bytes=999)


def test_a_pipe_or_a_folder_in_the_place_of_an_object_is_refused(tmp_path: Path) -> None:
    bucket = Bucket(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(InvalidData, match="no ordinary file"):
            bucket.get(name, max_bytes=10)


def test_a_folder_that_refuses_is_explained(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"a file where a folder should be")
    bucket = Bucket(str(tmp_path))
    with pytest.raises(TransportError, match=r"could not be written \(x/y\).*Check the URL"):
        bucket.put("x/y", b"z")


def test_an_s3_server_that_refuses_or_is_gone_is_explained(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    use_s3(monkeypatch, endpoint)
    with pytest.raises(TransportError, match="could not be written"):
        Bucket("s3://no-such-bucket/x").put("a", b"b")
    assert Bucket("s3://no-such-bucket/x").page("a") == []
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(TransportError, match="could not be read"):
        Bucket("s3://name/x", {"config_kwargs": {"retries": {"max_attempts": 0}}}).get("a", max_bytes=3)


def test_a_part_that_is_being_written_is_not_seen(tmp_path: Path) -> None:
    bucket = Bucket(str(tmp_path))
    bucket.put("x/whole", b"1")
    (tmp_path / "x" / "other.0011aabb.unfinished").write_bytes(b"half")
    assert bucket.page("x") == [("whole", 1)]


@pytest.mark.parametrize("url", ["s3://key:secret@name/x", "zip::s3://a/b.zip", "s3://name/x?key=secret", "x" * 600])
def test_keys_and_chains_do_not_belong_into_a_url(url: str) -> None:
    with pytest.raises(ValueError, match="Keys do not belong into it"):
        Bucket(url)


def test_an_unknown_kind_is_explained() -> None:
    with pytest.raises((TransportError, ValueError), match="nosuch"):
        Bucket("nosuch://a/b")
