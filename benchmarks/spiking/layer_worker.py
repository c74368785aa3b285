"""A training step of one layer of 512 inputs and 2,048 neurons with 93 % zeros: forward, backward, AdamW; one thread.

4,096 tokens of spikes at rate 0.2; the loss is a random product with the currents, its gradient goes to input and
weights. The argument says how: `masked` multiplies dense weights with a mask, as torch would have it; `synapses` is
ours, on activations that lie as its neighbours leave them; `moved` is ours where they lie the other way on both sides.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from answering import answer

from spikemesh.snn import MaskedLinear, SparseLinear, balanced_mask

INPUTS, NEURONS, DENSITY = 512, 2048, 0.07
LENGTH, BATCH = 512, 8


def main() -> None:
    torch.set_num_threads(1)
    how = sys.argv[1]
    rng = np.random.default_rng(0)
    mask = balanced_mask(NEURONS, INPUTS, DENSITY)
    layer = MaskedLinear(mask) if how == "masked" else SparseLinear(mask)
    with torch.no_grad():
        layer.weight.copy_(layer.laid(torch.from_numpy(rng.standard_normal(int(mask.sum()), np.float32))))
    spikes = torch.from_numpy((rng.random((LENGTH, BATCH, INPUTS)) < 0.2).astype(np.float32))
    grad = torch.from_numpy(rng.standard_normal((LENGTH, BATCH, NEURONS), np.float32))
    if how == "synapses":
        spikes, grad = (values.permute(2, 0, 1).contiguous().permute(1, 2, 0) for values in (spikes, grad))
    spikes.requires_grad_()
    optimiser = torch.optim.AdamW(layer.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        spikes.grad = None
        optimiser.zero_grad(set_to_none=True)
        currents = layer(spikes)
        (currents.contiguous() if how == "moved" else currents).backward(grad)
        optimiser.step()

    answer(step, {})


if __name__ == "__main__":
    main()
