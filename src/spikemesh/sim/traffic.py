"""Bytes told apart: payload that is new to its receiver, payload it had, and everything else."""

from __future__ import annotations

from blake3 import blake3

from spikemesh.codec import BlobPart, Message
from spikemesh.crdt import SyncMessage


class Traffic:
    """Payload is signed records and deltas; control is all other bytes of requests and replies, lost ones too."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.payload_bytes = self.repeated_bytes = self.control_bytes = 0
        self._seen: set[bytes] = set()

    def add(self, receiver: bytes, num_bytes: int, message: Message) -> None:
        carried = 0
        for piece in _payload(message):
            carried += len(piece)
            key = blake3(receiver + piece).digest(16)
            if key in self._seen:
                self.repeated_bytes += len(piece)
            else:
                self._seen.add(key)
                self.payload_bytes += len(piece)
        self.control_bytes += num_bytes - carried


def _payload(message: Message) -> tuple[bytes, ...]:
    match message:
        case SyncMessage():
            return message.records
        case BlobPart():
            return (message.data,)
        case _:
            return ()
