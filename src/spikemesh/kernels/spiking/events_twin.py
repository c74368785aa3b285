"""What cpp/events.cpp does, in NumPy: the same sums in the same order, so the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
INT4 = 2
NUM_READOUTS = 256


class Events:
    """Takes what the compiled class takes; the checks that guard memory there are left out here."""

    def __init__(
        self,
        weights: int,
        pull: bool,
        num_axon_delays: int,
        embedding: Floats,
        delay_mix: Floats,
        populations: Sequence[tuple[Floats, Floats]],
        synapses: Sequence[tuple[Array, Array, Array, Floats | None]],
        readout_leak: Floats,
        bias: Floats,
    ) -> None:
        self._lanes = 32 if pull else 1
        width = len(populations[-1][0])
        self._embedding, self._delay_mix = embedding.reshape(-1, width), delay_mix.reshape(-1, width)
        self._num_axon_delays, self._populations = num_axon_delays, populations
        sizes = [len(leak) for leak, _ in populations[1::2]]
        num_targets = [n for hidden in sizes for n in (hidden, width + len(bias))] + [len(bias)]
        self._matrices = [_Matrix(s, weights, pull, n) for s, n in zip(synapses, num_targets, strict=True)]
        self._readout_leak, self._bias = readout_leak, bias

    def step(
        self,
        clock: int,
        token: Array,
        counted_lanes: int,
        tokens: Array,
        potentials: Floats,
        sent: Array,
        spikes: Array,
        logits: Floats,
    ) -> None:
        lanes, width = self._lanes, self._embedding.shape[1]
        v = iter(np.split(potentials.reshape(-1, lanes), np.cumsum([len(leak) for leak, _ in self._populations])))
        counted = (np.uint64(counted_lanes) >> np.arange(lanes, dtype=np.uint64) & np.uint64(1)).astype(bool)
        u = self._input_currents(clock, token, tokens.reshape(-1, lanes))
        ring = sent.reshape(-1, self._num_axon_delays, width)
        head: Array | int = 0
        for block, sent_by_block in enumerate(ring):
            stream = self._fire(2 * block, u, next(v), spikes, counted)
            sent_by_block[clock % self._num_axon_delays] = _words(stream)
            w_in, w_out = self._matrices[2 * block : 2 * block + 2]
            x = w_in.currents(w_in.sums(self._arriving(clock, sent_by_block)))
            hidden = self._fire(2 * block + 1, x, next(v), spikes, counted)
            out = w_out.sums(hidden, after=head)
            u = u + w_out.currents(out)[:width]
            head = out[width:]
        output = self._fire(len(self._populations) - 1, u, next(v), spikes, counted)
        w_head = self._matrices[-1]
        x = w_head.currents(w_head.sums(output, after=head))
        y = next(v)
        y[:] = fused(self._readout_leak[:, None], y, x)
        logits.reshape(lanes, -1)[:] = (y + self._bias[:, None]).T

    def _input_currents(self, clock: int, token: Array, tokens: Array) -> Floats:
        """[D, lanes]."""
        tokens[clock % len(tokens)] = token
        u = self._delay_mix[0][:, None] * self._embedding[token].T
        for k in range(1, len(tokens)):
            then = tokens[(clock - k) % len(tokens)]
            late = self._delay_mix[k][:, None] * self._embedding[np.maximum(then, 0)].T
            u = np.where(then >= 0, u + late, u)
        return np.asarray(u, np.float32)

    def _fire(self, population: int, x: Floats, v: Floats, spikes: Array, counted: Array) -> npt.NDArray[np.bool_]:
        """Spikes [N, lanes]; `v` after the reset."""
        leak, threshold = self._populations[population]
        u = fused(leak[:, None], v, x)
        fired: npt.NDArray[np.bool_] = u >= threshold[:, None]
        v[:] = np.where(fired, np.float32(0), u)
        spikes[population] += fired[:, counted].sum()
        return fired

    def _arriving(self, clock: int, sent: Array) -> npt.NDArray[np.bool_]:
        """Each axon's spikes, as late as they are: [D, lanes]."""
        num_delays, width = sent.shape
        words = np.empty(width, np.uint32)
        for k in range(num_delays):
            late = slice(width * k // num_delays, width * (k + 1) // num_delays)
            words[late] = sent[(clock - k) % num_delays, late]
        return (words[:, None] >> np.arange(self._lanes, dtype=np.uint32) & 1).astype(np.bool_)


class _Matrix:
    """Synapses in the order in which their currents are added: by source, for each target."""

    def __init__(
        self, synapses: tuple[Array, Array, Array, Floats | None], kind: int, pull: bool, num_targets: int
    ) -> None:
        starts, indices, raw, self.scale = synapses
        values: Array = raw.view(np.float32) if kind == 0 else raw.view(np.int8)
        if kind == INT4:
            values = np.stack([(values << 4) >> 4, values >> 4], axis=1).reshape(-1)
        counts: Array = np.diff(starts.astype(np.int64))
        owners, others = np.repeat(np.arange(len(counts)), counts), indices.astype(np.int64)
        self.num_targets = num_targets
        self._sources: Array = others if pull else owners
        self._targets: Array = owners if pull else others
        self._values = values if kind == 0 else values.astype(np.int32)

    def sums(self, spikes: npt.NDArray[np.bool_], after: Array | int = 0) -> Array:
        """Sums [N, lanes] over the sources that spiked; `add.at` adds one by one, in order.

        The last 256 go on from the readout's sums `after` [256, lanes].
        """
        shape = (self.num_targets, spikes.shape[1])
        sums = np.zeros(shape, self._values.dtype)
        sums[-NUM_READOUTS:] = after
        for lane in range(shape[1]):
            active = spikes[self._sources, lane]
            np.add.at(sums[:, lane], self._targets[active], self._values[active])
        return sums

    def currents(self, sums: Array) -> Floats:
        if self.scale is None:
            return sums
        return self.scale[:, None] * sums.astype(np.float32)


def _words(spikes: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    """Spikes [N, lanes] as one word per neuron."""
    bits = np.left_shift(np.uint32(1), np.arange(spikes.shape[1], dtype=np.uint32))
    return np.asarray((spikes * bits).sum(axis=1), np.uint32)


def fused(a: Floats, b: Floats, c: Floats) -> Floats:
    """a * b + c, rounded once.

    The product of two floats is exact in a double. The sum is rounded to odd there, so that the rounding to float is
    the only one that counts (Boldo & Melquiond 2008).
    """
    product, c64 = np.multiply(a, b, dtype=np.float64), c.astype(np.float64)
    total = np.asarray(product + c64)
    part = total - product
    error = (product - (total - part)) + (c64 - part)
    even = (total.view(np.int64) & 1) == 0
    odd = np.where((error != 0) & even, np.nextafter(total, np.copysign(np.inf, error)), total)
    return odd.astype(np.float32)
