"""How activations lie in memory. Their axes are always [L, B, N]: token (time), batch, neuron.

*Time-major* is contiguous as it is: one step reads one slab. *Feature-major* is contiguous as [N, L, B]: a neuron's
values lie together, so a synapse is one vector operation over all tokens. Every function here and in `functional` takes
both, and gives back what it was given; arithmetic between alike tensors keeps it too. So a model decides once, for its
input currents, and nothing is transposed between its layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def shape_of(x: Tensor) -> tuple[int, int, int]:
    length, batch, neurons = x.shape
    return length, batch, neurons


def is_feature_major(x: Tensor) -> bool:
    return not x.is_contiguous() and x.permute(2, 0, 1).is_contiguous()


def feature_major(x: Tensor) -> Tensor:
    """The same values, contiguous as [N, L, B]; `x` itself if it is."""
    return x.permute(2, 0, 1).contiguous().permute(1, 2, 0)


def laid_like(x: Tensor, like: Tensor) -> Tensor:
    """The same values as `x`, lying as `like` does; `x` itself if it does."""
    return feature_major(x) if is_feature_major(like) else x.contiguous()


def empty_feature_major(shape: tuple[int, int, int], like: Tensor) -> Tensor:
    """Room for [L, B, N] values of the type of `like`."""
    length, batch, neurons = shape
    return like.new_empty(neurons, length, batch).permute(1, 2, 0)


def join(parts: Sequence[Tensor]) -> Tensor:
    """Populations side by side: torch.cat along the neurons, feature-major if one of them is."""
    if len(parts) == 1:
        return parts[0]
    if any(is_feature_major(part) for part in parts):
        return torch.cat([part.permute(2, 0, 1) for part in parts]).permute(1, 2, 0)
    return torch.cat(list(parts), 2)
