"""Everything spikemesh raises on purpose.

A class stands here because some caller decides differently on it; the message always says what was expected,
what was seen and what to do. Plain misuse of the Python interface raises ``ValueError``.

    SpikemeshError
    ├── InvalidData          bytes from outside failed validation: drop them and mark down who sent them
    ├── Divergence           the same inputs and another result: stop trusting one of the two
    ├── PromiseBroken        a simulated swarm did what no swarm may: the message says with which seed
    ├── TicketError          the ticket, run folder or genesis does not name a run we can take part in
    ├── DataError            the training text cannot be read
    ├── CheckpointError      checkpoints that do not fit together, or one that is needed and not there
    ├── StoreError           what this node holds on disk
    │   ├── StoreFull        no space left: free some, nothing was lost
    │   ├── StoreCorrupt     bytes on disk are not the bytes that were written
    │   ├── StoreBusy        another process uses this folder
    │   └── BlobMissing      this node does not hold that blob: ask another one
    └── TransportError       moving bytes to a peer
        └── PeerUnreachable  this peer, now: try another one, or later
            ├── PeerRefused  it lives and said why it does not do this now
            └── BlobGone     it answers, and holds those bytes no more: take its snapshot instead
"""

from __future__ import annotations


class SpikemeshError(Exception):
    """Base of every error that spikemesh raises on purpose."""


class InvalidData(SpikemeshError):
    """Bytes from outside that failed validation."""


class Divergence(SpikemeshError):
    """Two nodes report the same records and different sums, or a merged file is not what its inputs give."""


class PromiseBroken(SpikemeshError):
    """A simulation in which something acknowledged was lost, counted twice, or never became equal."""


class TicketError(SpikemeshError):
    """A ticket, run folder or genesis that does not name a run we can take part in."""


class DataError(SpikemeshError):
    """Training text that cannot be read or is too small."""


class CheckpointError(SpikemeshError):
    """Checkpoints that do not fit together, one that is needed and not there, or an output that is in the way."""


class StoreError(SpikemeshError):
    """The node's own folder on disk."""


class StoreFull(StoreError):
    """No space left on the disk; nothing that was acknowledged is lost."""


class StoreCorrupt(StoreError):
    """Bytes on disk are not the bytes that were written."""


class StoreBusy(StoreError):
    """Another process is using this folder."""


class BlobMissing(StoreError):
    """This node does not hold the blob."""


class TransportError(SpikemeshError):
    """Moving bytes to or from a peer failed."""


class PeerUnreachable(TransportError):
    """This peer does not answer now; another may, or it may later."""


class PeerRefused(PeerUnreachable):
    """This peer answered, and said no. `reason` is the word for programs in its refusal."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class BlobGone(PeerUnreachable):
    """A peer names a record whose blob it does not hold (any more): its snapshot stands for it."""
