"""One population of leaky integrate-and-fire neurons, forward and backward, by the library that the argument names.

Shapes: T = 8 steps, batch 4,096, 512 neurons, [T, B, N], float32, one thread; the loss is a random product with the
spikes, its gradient goes to the currents (ours also to leak and threshold of each neuron). Hard reset to zero,
arctangent surrogate (norse has none: SuperSpike). Each library as its documentation shows it, with a loop over time
where it has none of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from answering import answer
from torch import Tensor

STEPS, BATCH, NEURONS = 8, 4096, 512
LEAK = 0.5

Population = Callable[[Tensor], Tensor]
"""Currents [T, B, N] -> spikes [T, B, N], starting at rest."""


def spikemesh() -> Population:
    from spikemesh.snn import LIF

    neurons = LIF(NEURONS, leak=LEAK, sharpness=2.0)
    return lambda x: neurons(x)[0]


def spikingjelly() -> Population:
    from spikingjelly.activation_based import functional, neuron, surrogate

    neurons = neuron.LIFNode(
        tau=1 / (1 - LEAK),
        decay_input=False,
        v_threshold=1.0,
        v_reset=0.0,
        surrogate_function=surrogate.ATan(),
        detach_reset=True,
        step_mode="m",
    )

    def run(x: Tensor) -> Tensor:
        functional.reset_net(neurons)
        return neurons(x)

    return run


def snntorch() -> Population:
    import snntorch
    from snntorch import surrogate

    neurons = snntorch.Leaky(beta=LEAK, threshold=1.0, spike_grad=surrogate.atan(), reset_mechanism="zero")

    def run(x: Tensor) -> Tensor:
        potential, spikes = neurons.init_leaky(), []
        for current in x.unbind():
            fired, potential = neurons(current, potential)
            spikes.append(fired)
        return torch.stack(spikes)

    return run


def norse() -> Population:
    from norse.torch.functional.lif_box import LIFBoxFeedForwardState, LIFBoxParameters, lif_box_feed_forward_step

    # dv = dt * tau_mem_inv * (v_leak - v + x), so a threshold of 1 - LEAK gives the same spikes. It has no arctangent.
    rest = torch.tensor(1 - LEAK)
    parameters = LIFBoxParameters(tau_mem_inv=1000 * rest, v_th=rest, method="super")

    def run(x: Tensor) -> Tensor:
        state, spikes = LIFBoxFeedForwardState(v=torch.zeros(BATCH, NEURONS)), []
        for current in x.unbind():
            fired, state = lif_box_feed_forward_step(current, state, parameters, dt=0.001)
            spikes.append(fired)
        return torch.stack(spikes)

    return run


POPULATIONS = {maker.__name__: maker for maker in (spikemesh, spikingjelly, snntorch, norse)}


def main() -> None:
    torch.set_num_threads(1)
    run = POPULATIONS[sys.argv[1]]()
    random = torch.Generator().manual_seed(0)
    x = torch.randn(STEPS, BATCH, NEURONS, generator=random).mul_(0.7).requires_grad_()
    weight = torch.randn(STEPS, BATCH, NEURONS, generator=random)

    rate = float(run(x).detach().mean())

    def step() -> dict[str, float]:
        x.grad = None
        run(x).backward(weight)
        return {"rate": rate}

    answer(step, {})


if __name__ == "__main__":
    main()
