"""The content hash of a checkpoint: equal for two files exactly if they hold the same tensors, bit for bit.

    piece    = blake3 of PIECE_BYTES of a tensor's bytes (the last one shorter)
    tensor   = blake3 of its name, type and shape as JSON, then its pieces' hashes
    content  = blake3 of its tensors' hashes, in name order

The container does not count: a PyTorch file and a sharded safetensors with the same tensors are one content. Pieces can
be hashed in any order, by several threads, while they are being merged.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt
from blake3 import blake3

from spikemesh.checkpoint.source import Checkpoint, Tensor, TensorInfo
from spikemesh.checkpoint.windows import SILENT, Buffers, Progress, Stretch, for_each, stretches

Bytes = npt.NDArray[np.uint8]

PIECE_BYTES = 1 << 20
HASH_BYTES = 32


class ContentHash:
    """Collects the pieces of one checkpoint. Several threads may `add` different pieces at once."""

    def __init__(self, tensors: Mapping[str, TensorInfo]) -> None:
        self._tensors = tensors
        self._pieces = {name: bytearray(HASH_BYTES * num_pieces(tensor)) for name, tensor in tensors.items()}

    def add(self, name: str, start: int, data: Bytes) -> None:
        """The bytes of a tensor from `start` on, which is where a piece starts; only the last piece may be short."""
        pieces = self._pieces[name]
        for offset in range(0, len(data), PIECE_BYTES):
            at = (start + offset) // PIECE_BYTES * HASH_BYTES
            pieces[at : at + HASH_BYTES] = blake3(data[offset : offset + PIECE_BYTES].data).digest()

    def hexdigest(self) -> str:
        """The content, once every piece has been added."""
        content = blake3()
        for name in sorted(self._tensors):
            tensor = self._tensors[name]
            head = msgspec.json.encode([name, tensor.element.name, list(tensor.shape)])
            content.update(blake3(head + self._pieces[name]).digest())
        return content.hexdigest()


def num_pieces(tensor: TensorInfo) -> int:
    return -(-tensor.size_bytes // PIECE_BYTES)


def content_hash(checkpoint: Checkpoint, progress: Progress = SILENT) -> str:
    """Read all of a checkpoint and hash it."""
    progress.begin(f"reading {checkpoint.path.name}", checkpoint.size_bytes)
    collected = ContentHash(checkpoint.tensors)

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
