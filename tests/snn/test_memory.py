"""Both ways in which activations lie in memory, and what keeps them so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spikemesh.snn import LIF, AxonDelay, LeakyReadout
from spikemesh.snn.memory import feature_major, is_feature_major, join, laid_like


def steps(seed: int = 0, *shape: int) -> Tensor:
    return torch.randn(*(shape or (6, 3, 5)), generator=torch.Generator().manual_seed(seed))


def test_a_layout_changes_no_value() -> None:
    x = steps()
    y = feature_major(x)
    assert torch.equal(x, y) and is_feature_major(y) and not is_feature_major(x)
    assert feature_major(y).data_ptr() == y.data_ptr(), "nothing is copied that lies so"
    assert is_feature_major(laid_like(x, y)) and laid_like(y, x).is_contiguous()
    assert laid_like(y, y).data_ptr() == y.data_ptr()


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 3, 1), (4, 1, 1), (1, 3, 5), (4, 1, 5), (4, 3, 1), (0, 3, 5), (4, 0, 5)]
)
def test_sizes_of_one_and_none(shape: tuple[int, ...]) -> None:
    x = steps(1, *shape)
    assert torch.equal(feature_major(x), x)
    neurons = LIF(shape[2], leak=0.5, sharpness=1.0)
    for currents in (x, feature_major(x)):
        spikes, v = neurons(currents, neurons.initial_state(shape[1]))
        (spikes.sum() + v.sum()).backward()
        assert spikes.shape == x.shape and v.shape == x.shape[1:]


def test_populations_side_by_side() -> None:
    a, b = steps(0), steps(1, 6, 3, 2)
    assert torch.equal(join([a, b]), torch.cat([a, b], 2)) and join([a, b]).is_contiguous()
    assert torch.equal(join([feature_major(a), b]), torch.cat([a, b], 2)) and is_feature_major(
        join([feature_major(a), b])
    )
    assert join([a]) is a


def test_neurons_and_delays_keep_the_layout() -> None:
    x = feature_major(steps(2, 7, 4, 12)).requires_grad_()
    neurons, axons, readout = LIF(12, leak=0.5, sharpness=1.0), AxonDelay(12, num_delays=3), LeakyReadout(12, leak=0.5)
    spikes, _ = neurons(x, neurons.initial_state(4))
    arriving, _ = axons(spikes, axons.initial_state(spikes, 4))
    y, _ = readout(arriving, readout.initial_state(4))
    assert all(is_feature_major(values) for values in (spikes, arriving, y))
    y.sum().backward()
    assert x.grad is not None and is_feature_major(x.grad)


@pytest.mark.parametrize("length", [1, 2, 3, 6])
@pytest.mark.parametrize("lie", [torch.Tensor.contiguous, feature_major])
def test_delays_and_their_gradient(length: int, lie: object) -> None:
    axons = AxonDelay(7, num_delays=4)
    spikes, sent = (steps(n, *shape).double() for n, shape in enumerate(((length, 2, 7), (3, 2, 7))))
    spikes = lie(spikes)  # type: ignore[operator]
    arriving, after = axons(spikes, sent)
    history = torch.cat([sent, spikes])
    for n in range(7):
        wait = next(k for k in range(4) if n < axons.bounds[k + 1])
        assert torch.equal(arriving[:, :, n], history[3 - wait : 3 - wait + length, :, n])
    assert torch.equal(after, history[-3:])
    assert torch.autograd.gradcheck(axons, (spikes.requires_grad_(), sent.requires_grad_()))
