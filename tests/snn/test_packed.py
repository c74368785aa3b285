"""Spikes as bits between layers: the spikes, delays and gradients of floats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from spikemesh.kernels import native
from spikemesh.snn import LIF, AxonDelay, SparseLinear, balanced_mask
from spikemesh.snn.memory import feature_major
from spikemesh.snn.packed import PackedSpikes

pytestmark = pytest.mark.skipif(native is None, reason="the kernels are not compiled")

LENGTH, BATCH, NEURONS, DELAYS = 11, 5, 7, 4


def population() -> LIF:
    random = torch.Generator().manual_seed(2)
    neurons = LIF(NEURONS, leak=0.6, sharpness=1.0)
    with torch.no_grad():
        neurons.threshold.uniform_(0.2, 0.8, generator=random)
    return neurons


def currents(length: int = LENGTH) -> Tensor:
    return torch.randn(length, BATCH, NEURONS, generator=torch.Generator().manual_seed(1)).requires_grad_()


def both(run: Any, length: int = LENGTH) -> list[list[Tensor]]:
    """What `run(spikes, v)` makes of spikes as bits and as floats, and the gradients of currents, leak, threshold."""
    results = []
    for packed in (True, False):
        neurons, x = population(), currents(length)
        spikes, v = neurons(feature_major(x), torch.zeros(BATCH, NEURONS), packed=packed)
        assert isinstance(spikes, PackedSpikes if packed else Tensor) and tuple(spikes.shape) == x.shape
        made = run(spikes, v)
        random = torch.Generator().manual_seed(3)
        sum((part * torch.randn(part.shape, generator=random)).sum() for part in made).backward()
        results.append([part.detach() for part in made] + [x.grad, neurons.leak_logit.grad, neurons.threshold.grad])
    return results


def same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other) and bool(other.any())


def as_floats(spikes: PackedSpikes | Tensor) -> Tensor:
    return spikes.unpacked() if isinstance(spikes, PackedSpikes) else spikes


def test_bits_are_the_spikes_and_carry_their_gradient() -> None:
    same(*both(lambda spikes, v: [as_floats(spikes), v]))


@pytest.mark.parametrize("num_steps", [1, 3, LENGTH])
def test_the_last_steps(num_steps: int) -> None:
    same(
        *both(lambda spikes, _v: [spikes.last(num_steps) if isinstance(spikes, PackedSpikes) else spikes[-num_steps:]])
    )


@pytest.mark.parametrize("length", [2, 3, LENGTH])
@pytest.mark.parametrize("before", [0.0, 1.0])
def test_delays(length: int, before: float) -> None:
    axons, sent = AxonDelay(NEURONS, num_delays=DELAYS), torch.full((DELAYS - 1, BATCH, NEURONS), before)

    def run(spikes: PackedSpikes | Tensor, _v: Tensor) -> list[Tensor]:
        arriving, after = axons(spikes, sent)
        return [as_floats(arriving), after]

    same(*both(run, length))


def two_populations() -> SparseLinear:
    return SparseLinear(balanced_mask(6, 2 * NEURONS, 0.5))


def test_synapses_read_populations_side_by_side() -> None:
    layer = two_populations()
    with torch.no_grad():
        layer.weight.normal_(generator=torch.Generator().manual_seed(4))

    def run(spikes: PackedSpikes | Tensor, _v: Tensor) -> list[Tensor]:
        return [layer(spikes, spikes)]

    same(*both(run))


def test_a_mixture_of_bits_and_floats_is_refused() -> None:
    spikes, _ = population()(feature_major(currents()), torch.zeros(BATCH, NEURONS), packed=True)
    with pytest.raises(ValueError, match="all packed, or none"):
        two_populations()(spikes, torch.zeros(LENGTH, BATCH, NEURONS))


def test_rates_are_counted_from_bits() -> None:
    spikes, _ = population()(feature_major(currents()), torch.zeros(BATCH, NEURONS), packed=True)
    assert isinstance(spikes, PackedSpikes)
    assert spikes.rate == pytest.approx(float(spikes.unpacked().detach().mean())) and 0.1 < spikes.rate < 0.9
    assert spikes.carrier.untyped_storage().nbytes() == 4, "no memory for what nobody may read"
