"""The loss curve of a small fixed run. If training changes it moves: then change it knowingly, and say so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spikemesh.snn import ModelConfig, initialise
from spikemesh.train import Recipe, batch, make_optimiser, train_step

GOLDEN = (5.55914, 5.56414, 4.73557, 3.76800, 3.01163, 2.74884, 2.75526, 2.37965, 2.30033, 2.21531, 2.12124, 2.00403)
TOLERANCE = 5e-3
"""Other processors add in another order, and a spike more or less is felt in the steps that follow."""


@pytest.mark.parametrize("sparse", [True, False])
def test_the_loss_curve_is_the_one_it_was(sparse: bool) -> None:
    torch.manual_seed(0)
    text = np.frombuffer(b"".join(b"def f%d(x):\n    return x + %d\n\n" % (n, n * n) for n in range(400)), np.uint8)
    recipe = Recipe(num_rounds=2, steps_per_round=10, batch_size=4, num_tokens=32)
    config = ModelConfig(width=32, hidden=64, num_blocks=1, density=0.25)
    sample = batch(text, seed=0, step=0, batch_size=8, num_tokens=32)[:, :-1]
    model = initialise(config, sample, seed=0)
    if sparse:
        model.to_sparse()
    optimiser = make_optimiser(model, recipe)
    losses = []
    for step in range(len(GOLDEN)):
        windows = batch(text, seed=1, step=step, batch_size=recipe.batch_size, num_tokens=recipe.num_tokens)
        rate = recipe.rate_at(step / recipe.num_steps)
        losses.append(train_step(model, optimiser, torch.from_numpy(windows), rate, recipe).loss)
    np.testing.assert_allclose(losses, GOLDEN, atol=TOLERANCE)
