"""Corrections: whatever was predicted, the values come back; and damaged pieces are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikemesh.checkpoint.adapters.corrections import apply_corrections, encode_corrections
from spikemesh.errors import InvalidData
from spikemesh.kernels import ELEMENTS

FLOATS = [element for element in ELEMENTS.values() if element.kind == "float"]


@given(data=st.data())
def test_any_bits_come_back(data: st.DataObject) -> None:
    element = data.draw(st.sampled_from(FLOATS))
    size = data.draw(st.integers(1, 40)) * element.size_bytes
    values, predicted = (data.draw(st.binary(min_size=size, max_size=size)) for _ in range(2))
    for guess in (predicted, values, values[:-1] + predicted[-1:]):
        arrays = [np.frombuffer(one, np.uint8) for one in (values, guess)]
        piece = encode_corrections(*arrays, element)
        assert apply_corrections(arrays[1], piece, element).tobytes() == values
        assert (piece == b"") == (guess == values)


def test_a_step_across_zero_is_a_short_one() -> None:
    element = ELEMENTS["BF16"]
    near = [np.array([bits] * 4096, "<u2").view(np.uint8) for bits in (0x8000, 0x0000)]
    assert len(encode_corrections(*near, element)) < 4096 / 2


@pytest.mark.parametrize("damage", ["short", "long", "bits", "sizes"])
def test_a_damaged_piece_is_refused(damage: str) -> None:
    element = ELEMENTS["F32"]
    values, predicted = (np.arange(size, size + 100, dtype=np.float32).view(np.uint8) for size in (0, 50))
    piece = encode_corrections(values, predicted, element)
    damaged = {
        "short": piece[:10],
        "long": piece + b"\0",
        "bits": piece[:20] + b"\xff" * (len(piece) - 20),
        "sizes": b"\xff" * 4 + piece[4:],
    }[damage]
    with pytest.raises(InvalidData, match="remainder"):
        apply_corrections(predicted, damaged, element)
