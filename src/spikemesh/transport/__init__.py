"""How bytes reach others: one small seam, an in-process network, iroh, and wrappers that are transports themselves."""

from spikemesh.transport.base import (
    Handler,
    Limits,
    PeerAddress,
    PeerStatistics,
    Transport,
    TransportStatistics,
)
from spikemesh.transport.memory import Link, MemoryNetwork, MemoryTransport

__all__ = [
    "Handler",
    "Limits",
    "Link",
    "MemoryNetwork",
    "MemoryTransport",
    "PeerAddress",
    "PeerStatistics",
    "Transport",
    "TransportStatistics",
]
