"""Text from a model, one byte at a time. What it remembers is the neurons' state: O(1) per token."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from spikemesh.snn.model import SpikingLM


def sample(
    model: SpikingLM, prompt: bytes, *, num_bytes: int, temperature: float = 0.8, seed: int = 0
) -> Iterator[int]:
    """Yield `num_bytes` bytes that continue `prompt`; the same seed gives the same bytes.

    Temperature 0 takes the likeliest byte. An empty prompt starts as if after a line break.
    """
    if num_bytes < 0 or not temperature >= 0:
        raise ValueError(f"expected num_bytes >= 0 and temperature >= 0, got {num_bytes} and {temperature}")
    chance = torch.Generator().manual_seed(seed)
    tokens = torch.tensor([list(prompt or b"\n")])
    state = None
    for _ in range(num_bytes):
        with torch.no_grad():
            logits, state = model(tokens, state)
        last = logits[0, -1]
        if temperature == 0:
            token = int(last.argmax())
        else:
            token = int(torch.multinomial(torch.softmax(last / temperature, 0), 1, generator=chance))
        yield token
        tokens = torch.tensor([[token]])


def generate(model: SpikingLM, prompt: bytes, *, num_bytes: int, temperature: float = 0.8, seed: int = 0) -> bytes:
    """The bytes that `sample` yields, in one piece, without the prompt."""
    return bytes(sample(model, prompt, num_bytes=num_bytes, temperature=temperature, seed=seed))
