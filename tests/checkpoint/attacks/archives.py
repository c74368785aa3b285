"""PyTorch files that would run something, or are not what they say: zip files made by hand, pickles changed."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch


class Command:
    """Runs in a shell when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


class Code:
    """Evaluates Python when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"open({str(self.marker)!r}, 'w')",)


def saved(value: object, **options: object) -> bytes:
    """As torch saves it."""
    file = io.BytesIO()
    torch.save(value, file, **options)  # type: ignore[arg-type]
    return file.getvalue()


def records(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as container:
        return {name: container.read(name) for name in container.namelist()}


def packed(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as container:
        for name, part in parts.items():
            container.writestr(name, part)
    return file.getvalue()


GOOD = saved({"w": torch.arange(6.0).reshape(2, 3)})


def with_pickle(change: Callable[[bytes], bytes]) -> bytes:
    """The good file with another pickle, everything else as it was."""
    parts = records(GOOD)
    name = next(name for name in parts if name.endswith("data.pkl"))
    after = change(parts[name])
    assert after != parts[name]
    return packed(parts | {name: after})


def swapped(old: bytes, new: bytes) -> bytes:
    return with_pickle(lambda text: text.replace(old, new))


def commands(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Each would create `marker` if it were unpickled as Python does it."""
    for kind in (Command, Code):
        value = {"w": torch.ones(2), "x": kind(marker)}
        yield f"{kind.__name__} in a PyTorch file", saved(value)
        yield f"{kind.__name__} in a PyTorch file of the old kind", saved(value, _use_new_zipfile_serialization=False)
        for protocol in range(2, 6):
            yield f"{kind.__name__} in a pickle of protocol {protocol}", pickle.dumps(kind(marker), protocol)
            yield (
                f"{kind.__name__}, protocol {protocol}, for data.pkl",
                with_pickle(
                    lambda _, kind=kind, protocol=protocol: pickle.dumps(kind(marker), protocol)  # type: ignore[misc]
                ),
            )
        for protocol in (0, 1):
            yield f"{kind.__name__} in a pickle of protocol {protocol}", pickle.dumps(kind(marker), protocol)
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), script)
    yield "a program", script.getvalue()
    yield "constants that run", packed(records(GOOD) | {"archive/constants.pkl": pickle.dumps(Command(marker), 2)})


def attacks() -> Iterator[tuple[str, bytes]]:
    """Every one of them must be refused."""
    yield "a zip file of nothing", packed({})
    yield "a zip file of something else", packed({"w.npy": b"\x93NUMPY"})
    yield "no pickle", packed({name: part for name, part in records(GOOD).items() if not name.endswith("data.pkl")})
    yield "no data", packed({name: part for name, part in records(GOOD).items() if "/data/" not in name})
    yield "data cut", packed({name: part[:-1] if "/data/" in name else part for name, part in records(GOOD).items()})
    yield "an empty pickle", with_pickle(lambda _: b"")
    yield "a pickle without an end", with_pickle(lambda text: text[:-1])
    yield "a pickle of nothing", with_pickle(lambda _: b".")
    yield "compressed", packed(records(GOOD), zipfile.ZIP_DEFLATED)
    yield "a bomb", packed(records(GOOD) | {"archive/data.pkl": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    yield "another bomb", packed(records(GOOD) | {"archive/data/0": bytes(50_000_000)}, zipfile.ZIP_BZIP2)
    # 6 elements, [2, 3], strides (3, 1): K is one byte of integer, M are two, J are four, \x8a are many.
    yield "a larger shape", swapped(b"K\x02K\x03\x86", b"K\x03K\x03\x86")
    yield "a huge shape", swapped(b"K\x02K\x03\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86")
    yield "a shape beyond all numbers", swapped(b"K\x02K\x03\x86", b"\x8a\x09" + b"\xff" * 8 + b"\x7fK\x03\x86")
    yield "a negative shape", swapped(b"K\x02K\x03\x86", b"J\xff\xff\xff\xffK\x03\x86")
    yield "a larger stride", swapped(b"K\x03K\x01\x86", b"K\x04K\x01\x86")
    yield "a negative stride", swapped(b"K\x03K\x01\x86", b"J\xff\xff\xff\xffK\x01\x86")
    yield "8 TB out of one element", expanded()
    yield "more elements than the record has", swapped(b"K\x06", b"M\xff\xff")
    yield "another record", swapped(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x001")
    yield "a record elsewhere", swapped(b"X\x01\x00\x00\x000", b"X\x0b\x00\x00\x00../../../0a")
    yield "a function that is not for tensors", swapped(b"ctorch._utils\n_rebuild_tensor_v2", b"cos\nsystem")
    yield "nested deeply", with_pickle(lambda _: b"\x80\x02" + b"]" * 2000 + b"a" * 1999 + b".")
    yield "nested in itself", with_pickle(lambda _: b"\x80\x02]q\x00h\x00a.")
    yield (
        "a name that is no text",
        with_pickle(lambda text: text.replace(b"X\x01\x00\x00\x00w", b"X\x03\x00\x00\x00\xed\xa0\x80")),
    )
    yield "a name of safetensors' own", saved({"__metadata__": torch.ones(1)})
    yield "two tensors of one name", saved({"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)})
    yield "a whole module", saved(torch.nn.Linear(1, 1))


def expanded() -> bytes:
    """Strides of zero: a tensor of 8 TB out of one element."""
    return with_pickle(
        lambda text: text.replace(b"K\x02K\x03\x86", b"J\xff\xff\xff\x7fM\xff\x03\x86").replace(
            b"K\x03K\x01\x86", b"K\x00K\x00\x86"
        )
    )
