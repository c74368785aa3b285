"""How bytes reach others: one small seam, an in-process network, iroh, and wrappers that are transports themselves."""

from spikemesh.transport.base import (
    Handler,
    Limits,
    PeerAddress,
    PeerStatistics,
    Transport,
    TransportStatistics,
)
from spikemesh.transport.limit import Limited
from spikemesh.transport.memory import Link, MemoryNetwork, MemoryTransport
from spikemesh.transport.meter import Metered
from spikemesh.transport.retry import Retry

__all__ = [
    "Handler",
    "Limited",
    "Limits",
    "Link",
    "MemoryNetwork",
    "MemoryTransport",
    "Metered",
    "PeerAddress",
    "PeerStatistics",
    "Retry",
    "Transport",
    "TransportStatistics",
]
