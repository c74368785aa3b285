"""How bytes reach others: one small seam, an in-process network, iroh, and a meter that is a transport itself."""

from spikemesh.transport.base import (
    Handler,
    Limits,
    PeerAddress,
    PeerStatistics,
    Transport,
    TransportStatistics,
)
from spikemesh.transport.memory import Link, MemoryNetwork, MemoryTransport
from spikemesh.transport.meter import Metered

__all__ = [
    "Handler",
    "Limits",
    "Link",
    "MemoryNetwork",
    "MemoryTransport",
    "Metered",
    "PeerAddress",
    "PeerStatistics",
    "Transport",
    "TransportStatistics",
]
