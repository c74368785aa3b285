"""Input currents in compiled code against torch: the same bits forward, the same gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikemesh.kernels import currents_backward, currents_forward, native
from spikemesh.snn import ModelConfig, SpikingLM
from tests.kernels.floats import Guarded
from tests.kernels.implementations import COMPILED, using

pytestmark = pytest.mark.skipif(native is None, reason="the kernels are not compiled")


@pytest.mark.parametrize("name", COMPILED)
@given(
    length=st.integers(0, 40),
    batch=st.integers(1, 9),
    width=st.one_of(st.integers(1, 20), st.sampled_from([31, 32, 48])),
    delays=st.integers(1, 5),
    seed=st.integers(0, 2**32),
    num_threads=st.integers(1, 3),
)
def test_currents_are_those_of_the_model(
    name: str, length: int, batch: int, width: int, delays: int, seed: int, num_threads: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    model = SpikingLM(ModelConfig(width=width, hidden=1, num_input_delays=delays))
    with torch.no_grad():
        model.embedding.normal_(generator=random)
        model.delay_mix.normal_(generator=random)
    tokens = torch.randint(0, 256, (length, batch), generator=random)
    before = torch.randint(-1, 2, (delays - 1, batch), generator=random)
    expected, _ = model.input_currents(tokens, before)
    grad_u = torch.randn(expected.shape, generator=random)
    expected.backward(grad_u)

    guarded, history = Guarded(), torch.cat([before, tokens]).numpy()
    u, grad_embedding = guarded.room((width, length, batch)), guarded.room((256, width))
    grad_mix = guarded.room((delays, width))
    embedding, mix = model.embedding.detach().numpy(), model.delay_mix.detach().numpy()
    with using(name):
        currents_forward(history, embedding, mix, u=u, num_threads=num_threads)
        currents_backward(
            history,
            embedding,
            mix,
            np.ascontiguousarray(grad_u.permute(2, 0, 1).numpy()),
            grad_embedding=grad_embedding,
            grad_mix=grad_mix,
            num_threads=num_threads,
        )
    guarded.check()
    assert np.array_equal(u, expected.detach().permute(2, 0, 1).numpy())
    assert model.embedding.grad is not None and model.delay_mix.grad is not None
    np.testing.assert_allclose(grad_embedding, model.embedding.grad.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(grad_mix, model.delay_mix.grad.numpy(), rtol=1e-4, atol=1e-3)


def test_arrays_that_do_not_fit_are_refused() -> None:
    history, embedding, mix = np.zeros((5, 2), np.int64), np.zeros((7, 3), np.float32), np.zeros((2, 3), np.float32)
    u = np.zeros((3, 4, 2), np.float32)
    currents_forward(history, embedding, mix, u=u)
    for arrays, room in (
        ((history + 7, embedding, mix), u),
        ((history, embedding[:, :2].copy(), mix), u),
        ((history, embedding, mix), u[:2]),
        ((history[:0], embedding, mix), u),
        ((history, embedding, mix[:, :0].copy()), u),
        ((history[:, :0].copy(), embedding, mix), u),
        ((history, embedding.T.copy().T, mix), u),
    ):
        with pytest.raises(ValueError):
            currents_forward(*arrays, u=room)
