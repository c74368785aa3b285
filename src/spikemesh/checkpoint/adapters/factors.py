"""The factors of all adapters for one tensor, stacked: products of thin matrices become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from spikemesh.checkpoint.adapters.adapter import Adapter, read_matrix
from spikemesh.checkpoint.adapters.plan import ChangedTensor, Product
from spikemesh.kernels import Factors, Reals


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """Adapters and their weights, as integers over one divisor."""

    adapters: Sequence[Adapter]
    integers: Sequence[int]
    divisor: int

    @property
    def negated(self) -> Weighted:
        """What takes away what this adds."""
        return Weighted(adapters=self.adapters, integers=[-n for n in self.integers], divisor=self.divisor)


@dataclass
class Stack:
    """The stacked factors of one tensor, read when they are first asked for, by whichever thread that is."""

    tensor: ChangedTensor
    weighted: Weighted
    _lock: Lock = field(default_factory=Lock)
    _factors: Factors | None = None

    def factors(self) -> Factors:
        """All of them. `InvalidData` for NaN and infinity."""
        with self._lock:
            if self._factors is None:
                self._factors = stacked(self.tensor, self.weighted)
            return self._factors


def stacked(tensor: ChangedTensor, weighted: Weighted) -> Factors:
    """left [M, K] and right [K, N]: for a base [out, in] these are B and A side by side."""
    rows, columns = tensor.base.shape if tensor.products else (tensor.base.num_elements, 1)
    ranks = [product.pair.rank for product in tensor.products]
    is_double = any("F64" in (p.pair.a.element.name, p.pair.b.element.name) for p in tensor.products)
    real = np.float64 if is_double else np.float32
    left_MK, right_KN = np.empty((rows, sum(ranks)), real), np.empty((sum(ranks), columns), real)
    reach_K = np.empty(sum(ranks), np.float64)
    at = 0
    for product, rank in zip(tensor.products, ranks, strict=True):
        left, right = _sides(product, weighted.adapters[product.adapter])
        left_MK[:, at : at + rank], right_KN[at : at + rank] = left, right
        reach_K[at : at + rank] = np.abs(right).max(axis=1, initial=0)
        at += rank
    return Factors(
        left_MK=left_MK,
        right_KN=right_KN,
        weights_K=np.repeat(np.array([weighted.integers[p.adapter] for p in tensor.products], np.int64), ranks),
        scales_K=np.repeat(np.array([p.pair.scale for p in tensor.products], np.float64), ranks),
        divisor=weighted.divisor,
        reach_K=reach_K,
    )


def _sides(product: Product, adapter: Adapter) -> tuple[Reals, Reals]:
    a, b = read_matrix(product.pair.a, adapter.path), read_matrix(product.pair.b, adapter.path)
    return (a.T, b.T) if product.is_transposed else (b, a)
