"""A signed word for a sum: this set of records gave me that sum. For where no connection says who speaks."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from spikemesh.codec.canonical import HASH_BYTES
from spikemesh.codec.records import SIGNATURE_BYTES
from spikemesh.errors import InvalidData

DOMAIN = b"spikemesh/1 vouch\0"
VOUCH_BYTES = HASH_BYTES + SIGNATURE_BYTES


def sign_vouch(run_id: bytes, set_digest: bytes, sum_digest: bytes, private_key: Ed25519PrivateKey) -> bytes:
    """The sum's digest and a signature over run, set and sum."""
    return sum_digest + private_key.sign(DOMAIN + run_id + set_digest + sum_digest)


def read_vouch(data: bytes, *, run_id: bytes, set_digest: bytes, author: bytes) -> bytes:
    """The digest of the sum that `author` vouches for; else `InvalidData`."""
    if len(data) != VOUCH_BYTES:
        raise InvalidData(f"a vouch has {VOUCH_BYTES} bytes, got {len(data)}")
    sum_digest, signature = data[:HASH_BYTES], data[HASH_BYTES:]
    try:
        Ed25519PublicKey.from_public_bytes(author).verify(signature, DOMAIN + run_id + set_digest + sum_digest)
    except (InvalidSignature, ValueError) as error:
        raise InvalidData(f"a vouch is not signed by {author.hex()[:8]}, whose name it bears") from error
    return sum_digest
