"""Hashes of a checkpoint: equal for two files if they hold the same tensors, bit for bit, and else not.

    piece    = hash of PIECE_BYTES of a tensor's bytes (the last one shorter)
    tensor   = hash of its name, type and shape as JSON, then its pieces' hashes
    whole    = hash of its tensors' hashes, in name order

The container does not count: a PyTorch file and a sharded safetensors with the same tensors are one content. Pieces can
be hashed in any order, by several threads, while they are being merged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
from blake3 import blake3
from xxhash import xxh3_128_digest

from spikemesh.checkpoint.source import Checkpoint, Tensor, TensorInfo
from spikemesh.checkpoint.windows import Buffers, Stretch, for_each, stretches
from spikemesh.progress import SILENT, Progress

Bytes = npt.NDArray[np.uint8]

PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Kind:
    """A hash of checkpoints: what it is called, and its function over bytes."""

    name: str
    digest: Callable[[bytes | memoryview], bytes]


CONTENT = Kind("content", lambda data: blake3(data).digest())
"""The name of what is in a checkpoint, which nobody can give to something else."""
CHECKSUM = Kind("checksum", xxh3_128_digest)
"""Whether a merged file still is what was written. What a forger could do to it, he could do to the recipe beside it;
and it costs a tenth of what blake3 does."""


class TreeHash:
    """Collects the pieces of one checkpoint. Several threads may `add` different pieces at once."""

    def __init__(self, tensors: Mapping[str, TensorInfo], kind: Kind = CONTENT) -> None:
        self._tensors = tensors
        self._digest = kind.digest
        self._width = len(kind.digest(b""))
        self._pieces = {name: bytearray(self._width * num_pieces(tensor)) for name, tensor in tensors.items()}

    def add(self, name: str, start: int, data: Bytes) -> None:
        """The bytes of a tensor from `start` on, which is where a piece starts; only the last piece may be short."""
        pieces = self._pieces[name]
        for offset in range(0, len(data), PIECE_BYTES):
            at = (start + offset) // PIECE_BYTES * self._width
            pieces[at : at + self._width] = self._digest(data[offset : offset + PIECE_BYTES].data)

    def hexdigest(self) -> str:
        """The hash of the whole, once every piece has been added."""
        return self._digest(b"".join(self._of(name) for name in sorted(self._tensors))).hex()

    def is_same(self, one: str, other: str) -> bool:
        """Whether two of the tensors have the same elements, once every piece has been added."""
        first, second = self._tensors[one], self._tensors[other]
        return (first.element, first.shape, self._pieces[one]) == (second.element, second.shape, self._pieces[other])

    def _of(self, name: str) -> bytes:
        tensor = self._tensors[name]
        head = msgspec.json.encode([name, tensor.element.name, list(tensor.shape)])
        return self._digest(head + self._pieces[name])


def num_pieces(tensor: TensorInfo) -> int:
    return -(-tensor.size_bytes // PIECE_BYTES)


def tree_hash(checkpoint: Checkpoint, kind: Kind = CONTENT, progress: Progress = SILENT) -> str:
    """Read all of a checkpoint and hash it."""
    progress.begin(f"reading {checkpoint.path.name}", checkpoint.size_bytes)
    collected = TreeHash(checkpoint.tensors, kind)

    def read(item: tuple[Tensor, Stretch], buffers: Buffers) -> None:
        tensor, stretch = item
        data = buffers(0, stretch.count)
        tensor.read(stretch.start, data.data)
        collected.add(tensor.name, stretch.start, data)
        progress.advance(len(data))

    for_each(
        ((tensor, s) for tensor in checkpoint.tensors.values() for s in stretches(tensor.size_bytes, PIECE_BYTES)), read
    )
    return collected.hexdigest()


SAMPLES = 64
SAMPLE_BYTES = 4096


def sample_hash(checkpoint: Checkpoint) -> bytes:
    """A hash of a little of each of the largest tensors: where two differ, the contents differ. Costs a few seeks."""
    head = [[name, tensor.element.name, list(tensor.shape)] for name, tensor in checkpoint.tensors.items()]
    sample = blake3(msgspec.json.encode(head))
    largest = sorted(checkpoint.tensors.values(), key=lambda tensor: (-tensor.size_bytes, tensor.name))[:SAMPLES]
    for tensor in largest:
        size = min(SAMPLE_BYTES, tensor.size_bytes)
        start = (tensor.size_bytes - size) // 2 // 8 * 8
        buffer = bytearray(size)
        tensor.read(start, memoryview(buffer))
        sample.update(buffer)
    return sample.digest()
