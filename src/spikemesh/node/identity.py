"""Who a volunteer is: an Ed25519 key in its folder. The public key names it to peers and as an author."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spikemesh.errors import StoreCorrupt
from spikemesh.files import write_file_atomic

SECRET_BYTES = 32


@dataclass(frozen=True)
class Identity:
    """`secret` stays in the folder; `id` is the 32-byte public key."""

    secret: bytes

    @property
    def private_key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.secret)

    @property
    def id(self) -> bytes:
        return self.private_key.public_key().public_bytes_raw()

    @classmethod
    def load_or_create(cls, folder: Path) -> Identity:
        """The identity of this folder. A new one is on the disk before it is returned, readable by its owner only."""
        path = folder / "identity.key"
        if not path.exists():
            write_file_atomic(path, Ed25519PrivateKey.generate().private_bytes_raw(), mode=0o600)
        secret = path.read_bytes()
        if len(secret) != SECRET_BYTES:
            raise StoreCorrupt(
                f"{path} should hold a {SECRET_BYTES}-byte key and holds {len(secret)} bytes. Restore it from a "
                "backup, or delete it to go on as a new volunteer."
            )
        return cls(secret)
