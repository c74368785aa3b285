"""Each kernel alone, at shapes of the demo, one thread: seconds of one call, the mean of several.

Letters: A coordinate, R output, F input, T token, L step, B batch, N neuron, D channel, K delay, V value of a token.
Spikes come at the rates of a trained demo, 0.15.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from answering import answer

from spikemesh.codec import TOP_K, QuantisedDelta, encode_delta, quantise, read_delta, select_top_k
from spikemesh.crdt import IntegerSum
from spikemesh.kernels import (
    ELEMENTS,
    Pattern,
    Rule,
    combine,
    currents_backward,
    currents_forward,
    lif_backward,
    lif_forward,
    num_bit_bytes,
)
from spikemesh.snn import EventEngine, ModelConfig, balanced_mask
from spikemesh.snn.config import tensor_shapes

OUTPUTS, INPUTS, DENSITY, TOKENS, RATE = 1024, 512, 0.07, 1024, 0.15
LENGTH, BATCH = 128, 8
CHANNELS, DELAYS, VALUES = 512, ModelConfig().num_input_delays, 256
COORDINATES, SENT, GRID = 1 << 18, 0.25, -26
CALLS = 5

Kernels = dict[str, Callable[[], object]]


def products(rng: np.random.Generator) -> Kernels:
    pattern = Pattern.of(balanced_mask(OUTPUTS, INPUTS, DENSITY))
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


def tokens(rng: np.random.Generator) -> Kernels:
    """One token through the demo's model, event by event."""
    config = ModelConfig()
    tensors = {name: rng.standard_normal(shape, np.float32) for name, shape in tensor_shapes(config).items()}
    for name, array in tensors.items():
        if name.endswith(".weight"):
            array *= rng.random(array.shape) < DENSITY
    session, token = EventEngine(config, tensors).session(1), np.array([97])
    return {"token": lambda: session.step(token)}


def deltas(rng: np.random.Generator) -> Kernels:
    """An author's side of a delta [A], and everybody's: `fold` reads and adds."""
    values = (rng.laplace(size=COORDINATES) * 1e-3).astype(np.float32)
    indices = select_top_k(values, SENT)
    sent = values[indices]
    delta = QuantisedDelta(COORDINATES, indices, *quantise(sent, TOP_K, GRID), TOP_K)
    data, total = encode_delta(delta), IntegerSum.zero(COORDINATES)
    return {
        "select": lambda: select_top_k(values, SENT),
        "quantise": lambda: quantise(sent, TOP_K, GRID),
        "encode": lambda: encode_delta(delta),
        "fold": lambda: total.fold([(read_delta(data, num_coordinates=COORDINATES), 1024)]),
    }


def merges(rng: np.random.Generator) -> Kernels:
    """Two checkpoints [A] of float32 with 93 % zeros."""
    inputs = [(rng.standard_normal(COORDINATES, np.float32) * (rng.random(COORDINATES) < DENSITY)) for _ in range(2)]
    parts, out, element = [each.view(np.uint8) for each in inputs], np.empty(4 * COORDINATES, np.uint8), ELEMENTS["F32"]
    mean = {"element": element, "out": out, "out_element": element, "weights": [1, 1]}
    return {"combine": lambda: combine(Rule.ACTIVE_MEAN, parts, **mean)}


SHAPES = {
    **dict.fromkeys(("product", "transposed", "gradient"), f"{OUTPUTS:,} x {INPUTS}, {DENSITY:.0%}, {TOKENS:,} tokens"),
    **dict.fromkeys(("lif_forward", "lif_backward"), f"{LENGTH} x {BATCH} x {OUTPUTS:,}"),
    **dict.fromkeys(("currents_forward", "currents_backward"), f"{LENGTH} x {BATCH} x {CHANNELS}, {DELAYS} delays"),
    "token": "one token of the demo's model",
    **dict.fromkeys(("select", "quantise", "encode", "fold"), f"a delta of {COORDINATES:,}, top {SENT:.0%}"),
    "combine": f"two times {COORDINATES:,} float32, {DENSITY:.0%}",
}


def seconds_of_a_call(kernel: Callable[[], object]) -> float:
    start = time.process_time()
    for _ in range(CALLS):
        kernel()
    return (time.process_time() - start) / CALLS


def main() -> None:
    rng = np.random.default_rng(0)
    makers = (products, neurons, currents, tokens, deltas, merges)
    kernels: Kernels = {name: kernel for maker in makers for name, kernel in maker(rng).items()}
    answer(
        lambda: {"kernels": {name: seconds_of_a_call(kernel) for name, kernel in kernels.items()}, "shapes": SHAPES}, {}
    )


if __name__ == "__main__":
    main()
