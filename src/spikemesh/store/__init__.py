"""What this node holds on disk: blobs by hash, signed records, the exact sum with the set it stands for.

The invariants, and the write order that follows from them, are in `docs/design/store.md`.
"""

from spikemesh.store.blobs import BlobStore
from spikemesh.store.store import RecordRow, SavedSum, Store

__all__ = ["BlobStore", "RecordRow", "SavedSum", "Store"]
