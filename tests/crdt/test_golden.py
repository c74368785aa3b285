"""Digests that must be the same on every machine and in every version: peers compare them."""

from __future__ import annotations

import numpy as np
from blake3 import blake3

from spikemesh.crdt import CHUNK_COORDINATES, WEIGHT_ONE, Delta, IntegerSum

NUM_COORDINATES = CHUNK_COORDINATES + 1000


def term(number: int) -> tuple[Delta, int]:
    """Made with integer arithmetic alone, so that it is the same everywhere."""
    indices = np.arange(number % 7, NUM_COORDINATES, 97 + number, dtype=np.int64)
    quanta = (indices * 2_654_435_761 % ((1 << 27) - 1)).astype(np.int32) * np.int32(1 - 2 * (number % 2))
    return Delta(NUM_COORDINATES, indices, quanta), 1 + number * 1001 % WEIGHT_ONE


def test_the_digest_and_the_weights_of_a_sum() -> None:
    total = IntegerSum.zero(NUM_COORDINATES).fold(term(number) for number in range(12))
    theta = total.resolve(np.linspace(-1, 1, NUM_COORDINATES, dtype=np.float64).astype(np.float32), -26)
    assert total.digest.hex() == "9cb88340540ccf36a2347a2d7edc0eca74f378f6595fa29c7b1ed858b1774840"
    assert (
        blake3(theta.astype("<f4").tobytes()).hexdigest()
        == "47cd6b116f7e6f04ebdd8ebc537836cc3d2f90ff376d4a43a0b78221413edd83"
    )
