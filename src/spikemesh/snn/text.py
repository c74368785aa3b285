"""Text from a model, one byte at a time. What it remembers is the neurons' state: O(1) per token.

A model is either the torch module or the event-driven engine; the same seed draws the same chances for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spikemesh.snn.inference import EventEngine

if TYPE_CHECKING:
    from spikemesh.snn.model import ModelState, SpikingLM

Reader = Callable[[bytes], npt.NDArray[np.floating]]
"""Takes the next bytes of a text and returns the logits [256] for the one that follows."""


def sample(
    model: SpikingLM | EventEngine, prompt: bytes, *, num_bytes: int, temperature: float = 0.8, seed: int = 0
) -> Iterator[int]:
    """Yield `num_bytes` bytes that continue `prompt`; the same seed gives the same bytes.

    Temperature 0 takes the likeliest byte. An empty prompt starts as if after a line break.
    """
    if num_bytes < 0 or not temperature >= 0:
        raise ValueError(f"expected num_bytes >= 0 and temperature >= 0, got {num_bytes} and {temperature}")
    read = model.session().read if isinstance(model, EventEngine) else _torch_reader(model)
    chance = np.random.default_rng(seed % (1 << 64))
    text = prompt or b"\n"
    for _ in range(num_bytes):
        token = choose(read(text), temperature, chance)
        yield token
        text = bytes([token])


def generate(
    model: SpikingLM | EventEngine, prompt: bytes, *, num_bytes: int, temperature: float = 0.8, seed: int = 0
) -> bytes:
    """The bytes that `sample` yields, in one piece, without the prompt."""
    return bytes(sample(model, prompt, num_bytes=num_bytes, temperature=temperature, seed=seed))


def choose(logits: npt.NDArray[np.floating], temperature: float, chance: np.random.Generator) -> int:
    """One of the tokens: with probability softmax(logits / temperature), or the likeliest at temperature 0."""
    if temperature == 0:
        return int(logits.argmax())
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    below = np.cumsum(weights)
    return int(np.searchsorted(below, chance.random() * below[-1], side="right"))


def _torch_reader(model: SpikingLM) -> Reader:
    import torch

    state: ModelState | None = None

    def read(text: bytes) -> npt.NDArray[np.floating]:
        nonlocal state
        with torch.no_grad():
            logits, state = model(torch.tensor([list(text)]), state)
        last: npt.NDArray[np.floating] = logits[0, -1].numpy()
        return last

    return read
