"""Each kernel of training alone, at shapes of the demo, one thread: seconds of one call, the mean of several.

Letters: R output, F input, T token, L step, B batch, N neuron, D channel, K delay, V value of a token. Spikes come at
the rates of a trained demo, 0.15.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from answering import answer

from spikemesh.kernels import (
    Pattern,
    currents_backward,
    currents_forward,
    lif_backward,
    lif_forward,
    num_bit_bytes,
)
from spikemesh.snn import ModelConfig, balanced_mask

OUTPUTS, INPUTS, DENSITY, TOKENS, RATE = 1024, 512, 0.07, 1024, 0.15
LENGTH, BATCH = 128, 8
CHANNELS, DELAYS, VALUES = 512, ModelConfig().num_input_delays, 256
CALLS = 5

Kernels = dict[str, Callable[[], object]]


def products(rng: np.random.Generator) -> Kernels:
    pattern = Pattern.of(balanced_mask(OUTPUTS, INPUTS, DENSITY, rng))
    values = rng.standard_normal(pattern.num_synapses, np.float32)
    x = (rng.random((INPUTS, TOKENS)) < RATE).astype(np.float32)
    bits = pattern.empty_bits(TOKENS)
    pattern.pack(x, bits)
    y, grad_y = np.empty((OUTPUTS, TOKENS), np.float32), rng.standard_normal((OUTPUTS, TOKENS), np.float32)
    grad_x, grad_values = np.empty_like(x), np.empty_like(values)
    return {
        "product": lambda: pattern.multiply_spikes(values, bits, y),
        "transposed": lambda: pattern.multiply_transposed(values, grad_y, grad_x),
        "gradient": lambda: pattern.correlate_spikes(grad_y, bits, grad_values),
    }


def neurons(rng: np.random.Generator) -> Kernels:
    """Arrays [L, B, N] that lie as [N, L, B], and spikes as bits: as a model trains."""
    shape = (OUTPUTS, LENGTH, BATCH)
    x, grad_y = (rng.standard_normal(shape, np.float32).transpose(1, 2, 0) for _ in range(2))
    grad_x = np.empty(shape, np.float32).transpose(1, 2, 0)
    v0, v, grad_v0 = (np.zeros((OUTPUTS, BATCH), np.float32).T for _ in range(3))
    leak, threshold = np.full(OUTPUTS, 0.5, np.float32), np.ones(OUTPUTS, np.float32)
    bits = np.empty(num_bit_bytes(OUTPUTS, LENGTH * BATCH), np.uint8)
    grads = {"grad_x": grad_x, "grad_v0": grad_v0, "grad_leak": leak.copy(), "grad_threshold": threshold.copy()}
    return {
        "lif_forward": lambda: lif_forward(x, v0, leak, threshold, bits=bits, v=v),
        "lif_backward": lambda: lif_backward(x, v0, leak, threshold, 2.0, grad_y, None, **grads),
    }


def currents(rng: np.random.Generator) -> Kernels:
    history = rng.integers(0, VALUES, (DELAYS - 1 + LENGTH, BATCH))
    embedding, mix = (rng.standard_normal((rows, CHANNELS), np.float32) for rows in (VALUES, DELAYS))
    u, grad_u = (
        np.empty((CHANNELS, LENGTH, BATCH), np.float32),
        rng.standard_normal((CHANNELS, LENGTH, BATCH), np.float32),
    )
    grads = {"grad_embedding": np.empty_like(embedding), "grad_mix": np.empty_like(mix)}
    return {
        "currents_forward": lambda: currents_forward(history, embedding, mix, u=u),
        "currents_backward": lambda: currents_backward(history, embedding, mix, grad_u, **grads),
    }


SHAPES = {
    **dict.fromkeys(("product", "transposed", "gradient"), f"{OUTPUTS:,} x {INPUTS}, {DENSITY:.0%}, {TOKENS:,} tokens"),
    **dict.fromkeys(("lif_forward", "lif_backward"), f"{LENGTH} x {BATCH} x {OUTPUTS:,}"),
    **dict.fromkeys(("currents_forward", "currents_backward"), f"{LENGTH} x {BATCH} x {CHANNELS}, {DELAYS} delays"),
}


def seconds_of_a_call(kernel: Callable[[], object]) -> float:
    start = time.process_time()
    for _ in range(CALLS):
        kernel()
    return (time.process_time() - start) / CALLS


def main() -> None:
    rng = np.random.default_rng(0)
    kernels = products(rng) | neurons(rng) | currents(rng)
    answer(
        lambda: {"kernels": {name: seconds_of_a_call(kernel) for name, kernel in kernels.items()}, "shapes": SHAPES}, {}
    )


if __name__ == "__main__":
    main()
