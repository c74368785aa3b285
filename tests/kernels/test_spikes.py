"""Spikes as bits: what was packed comes out again, late or not, from compiled code and from NumPy alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikemesh.kernels import count_spikes, delay_spikes, num_bit_bytes, unpack_spikes
from spikemesh.kernels.spiking.spikes_twin import pack_rows
from tests.kernels.floats import Guarded
from tests.kernels.implementations import ALL, using

NUM_TOKENS = st.one_of(st.integers(0, 70), st.sampled_from([127, 128, 255, 256, 257, 300, 600]))
GUARD = np.full(67, 0xA5, np.uint8)


def spikes_of(seed: int, neurons: int, tokens: int) -> npt.NDArray[np.bool_]:
    return np.random.default_rng(seed).random((neurons, tokens)) < 0.3


@pytest.mark.parametrize("name", ALL)
@given(seed=st.integers(0, 2**32), neurons=st.integers(0, 9), tokens=NUM_TOKENS, share=st.floats(0, 1))
def test_what_was_packed_comes_out(name: str, seed: int, neurons: int, tokens: int, share: float) -> None:
    spikes, guarded, first = spikes_of(seed, neurons, tokens), Guarded(), round(share * tokens)
    bits = pack_rows(spikes)
    assert bits.size == num_bit_bytes(neurons, tokens) and count_spikes(bits) == spikes.sum()
    out = guarded.room((neurons, tokens - first))
    with using(name):
        unpack_spikes(bits, neurons, tokens, first, out)
    guarded.check()
    assert np.array_equal(out, spikes[:, first:])


@pytest.mark.parametrize("name", ALL)
@given(seed=st.integers(0, 2**32), neurons=st.integers(0, 9), tokens=NUM_TOKENS, data=st.data())
def test_late_spikes_come_after_silence(name: str, seed: int, neurons: int, tokens: int, data: st.DataObject) -> None:
    wait = st.one_of(st.integers(0, 9), st.integers(0, 700), st.sampled_from([63, 64, 65, 128, 256]))
    delays = np.array(data.draw(st.lists(wait, min_size=neurons, max_size=neurons)), np.int64)
    spikes, size = spikes_of(seed, neurons, tokens), num_bit_bytes(neurons, tokens)
    memory = np.concatenate([GUARD, np.full(size, 0xFF, np.uint8), GUARD])
    out = memory[len(GUARD) : len(GUARD) + size]
    with using(name):
        delay_spikes(pack_rows(spikes), delays, tokens, out)
    expected = np.zeros_like(spikes)
    for late, row, delay in zip(expected, spikes, delays.tolist(), strict=True):
        late[delay:] = row[: max(0, tokens - delay)]
    assert out.tobytes() == pack_rows(expected).tobytes()
    assert np.array_equal(memory[: len(GUARD)], GUARD) and np.array_equal(memory[len(GUARD) + size :], GUARD)
