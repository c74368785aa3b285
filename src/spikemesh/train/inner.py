"""The inner loop: plain PyTorch, one step on one screen.

What is different here: the learning rate follows the *run's* progress, handed in from outside, not this process's
step count, so that a volunteer that joins late trains at the rate the others train at.

Shapes: B batch, L token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikemesh.snn import SpikingLM
from spikemesh.train.recipe import Recipe


@dataclass(frozen=True)
class StepResult:
    """One inner step: mean loss in nats per byte, the gradient's norm before clipping, bytes trained on."""

    loss: float
    grad_norm: float
    num_tokens: int


def make_optimiser(model: SpikingLM, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019); `rate_scale` of a group multiplies the schedule's rate."""
    others = [values for name, values in sorted(model.named_parameters()) if name != "embedding"]
    groups = [
        {"params": [model.embedding], "rate_scale": recipe.embedding_rate_scale},
        {"params": others, "rate_scale": 1.0},
    ]
    betas = (recipe.beta1, recipe.beta2)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, weight_decay=recipe.weight_decay, fused=True)


def train_step(
    model: SpikingLM, optimiser: torch.optim.AdamW, windows: Tensor, rate: float, recipe: Recipe
) -> StepResult:
    """Predict every next byte of `windows` [B, L + 1] and take one step at learning rate `rate`."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate_scale"]
    optimiser.zero_grad(set_to_none=True)
    loss = next_byte_loss(model, windows)
    loss.backward()  # type: ignore[no-untyped-call]
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
    optimiser.step()
    return StepResult(loss.item(), float(grad_norm), windows.shape[0] * (windows.shape[1] - 1))


def next_byte_loss(model: SpikingLM, windows: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of every byte of `windows` [B, L + 1] given the bytes before it."""
    logits, _ = model(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
