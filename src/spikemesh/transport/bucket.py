"""A folder that all volunteers of a run can reach: a shared disk, S3, Hugging Face, Drive; whatever fsspec opens.

There are no locks and no conditional writes, because not every store has them. They are not needed: objects are
immutable and their names follow from their bytes, so two writers of one name write the same. What lies in a bucket was
written by anybody; sizes are bounded here, and what the bytes mean is for the caller to validate.

Every call blocks. It may take as long as the store's own timeouts let it, so a node makes it in a thread and gives up.
"""

from __future__ import annotations

import errno
import heapq
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from spikemesh.errors import InvalidData, TransportError

MAX_URL_CHARS = 512
MAX_PAGE = 1000
"""Names in one page of a listing; S3 gives no more at once either."""

UNFINISHED = ".unfinished"


class Bucket:
    """Objects below one folder. `url` is a path or what fsspec calls a URL; keys come from where the store's own tools
    look for them (environment, configuration files), never from the URL."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        """`ValueError` for a URL that holds credentials or chains file systems."""
        self.url = url
        if "::" in url or "@" in url or "?" in url or len(url) > MAX_URL_CHARS:
            raise ValueError(
                "a bucket is a folder or a plain URL such as s3://name/folder, without @, ? or ::. Keys do not belong "
                "into it: set them as the store's own tools want them."
            )
        with self._errors("opened"):
            self._fs, root = fsspec.core.url_to_fs(
                url, **{"skip_instance_cache": True, "use_listings_cache": False, **(options or {})}
            )
        self._root = root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)
        self._pages: Callable[[str, str, int], Iterator[tuple[str, int]]] = (
            self._s3_page if hasattr(self._fs, "call_s3") else self._any_page
        )

    def __str__(self) -> str:
        return f"bucket {self.url}"

    def page(self, folder: str, *, after: str = "", limit: int = MAX_PAGE) -> list[tuple[str, int]]:
        """(name, bytes) of what lies in `folder` itself, ascending, names above `after` only; at most `limit`.

        A folder counts as 0 bytes. One that is not there is empty. A store may show what was just written late.
        """
        with self._errors(f"listed ({folder})"):
            try:
                return list(self._pages(folder, after, min(limit, MAX_PAGE)))
            except FileNotFoundError:
                return []

    def get(self, name: str, *, max_bytes: int) -> bytes | None:
        """The object, None if there is none. `InvalidData` if it is larger than `max_bytes`; no more is read."""
        path = f"{self._root}/{name}"
        with self._errors(f"read ({name})"):
            try:
                if self._local and not stat.S_ISREG(Path(path).stat().st_mode):
                    raise InvalidData(f"{name} in {self} is no ordinary file")  # a pipe would never end
                data: bytes = self._fs.cat_file(path, start=0, end=max_bytes + 1)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                data = b""  # no range of an empty object can be had from S3
        if len(data) > max_bytes:
            raise InvalidData(f"{name} in {self} has more than the {max_bytes} bytes that are taken")
        return data

    def put(self, name: str, data: bytes) -> None:
        """Write an object, whole or, where the store cannot promise that, seen in part by others for a moment."""
        path = f"{self._root}/{name}"
        with self._errors(f"written ({name})"):
            if not self._local:
                self._fs.pipe_file(path, data)
                return
            unfinished = Path(f"{path}.{secrets.token_hex(4)}{UNFINISHED}")
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            try:
                unfinished.write_bytes(data)
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        with self._errors(f"cleared ({name})"):
            try:
                self._fs.rm_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return

    def _any_page(self, folder: str, after: str, limit: int) -> Iterator[tuple[str, int]]:
        listed = self._fs.ls(f"{self._root}/{folder}", detail=True)
        entries = (
            (str(item["name"]).rstrip("/").rpartition("/")[2], int(item["size"] or 0) if item["type"] == "file" else 0)
            for item in listed
        )
        yield from heapq.nsmallest(limit, (entry for entry in entries if entry[0] > after and _visible(entry[0])))

    def _s3_page(self, folder: str, after: str, limit: int) -> Iterator[tuple[str, int]]:
        """S3 can start after a name: a folder of a million records is not read from its start each time."""
        bucket, _, root = self._root.partition("/")
        prefix = "/".join(part for part in (root, folder) if part) + "/"
        answer = self._fs.call_s3(
            "list_objects_v2",
            Bucket=bucket,
            Prefix=prefix,
            Delimiter="/",
            StartAfter=prefix + after if after else "",
            MaxKeys=limit,
        )
        entries = [(str(item["Key"]), int(item["Size"])) for item in answer.get("Contents", ())]
        entries += [(str(item["Prefix"]).rstrip("/"), 0) for item in answer.get("CommonPrefixes", ())]
        for key, num_bytes in sorted(entries):
            if (name := key.removeprefix(prefix)) > after and _visible(name):
                yield name, num_bytes

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Every file system raises its own: `TransportError` with what was tried."""
        try:
            yield
        except InvalidData:
            raise
        except ImportError as error:
            raise TransportError(f"{self} needs a package that is not installed: {error}") from error
        except Exception as error:
            raise TransportError(
                f"{self} could not be {doing}: {type(error).__name__} {error!s:.200}. Check the URL, the keys and "
                "the network; it is tried again."
            ) from error


def _visible(name: str) -> bool:
    return bool(name) and not name.endswith(UNFINISHED)
