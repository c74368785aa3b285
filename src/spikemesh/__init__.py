"""spikemesh: train one large sparse spiking language model together, without a cluster or a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spikemesh.checkpoint import inspect, merge, unmerge, verify

__all__ = ["inspect", "merge", "unmerge", "verify"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`spikemesh.merge` and its like, loaded when they are asked for: importing the package itself costs nothing."""
    if name in __all__:
        from spikemesh import checkpoint

        return getattr(checkpoint, name)
    raise AttributeError(f"module 'spikemesh' has no attribute {name!r}")
