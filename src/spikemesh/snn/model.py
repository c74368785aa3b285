"""A byte-level language model of spiking neurons, with time on the token axis: one step per token.

    currents  u = sum over k of delay_mix[k] * embedding[token[t-k]]        (a stream of currents, width D)
    block     a = LIF(u), delayed per axon;  h = LIF(W_in a);  u = u + W_out h
    readout   logits = leaky integral of W_head [h of every block, LIF(u)] + bias

Tokens mix only through what neurons carry along: membrane leaks and short axonal delays. So causality holds by
construction, and generation keeps O(1) state per token: no attention, no cache, nothing normalised over tokens.
Every weight matrix reads spikes, 0 or 1. The stream of currents is the membrane shortcut of Hu et al. 2021
(MS-ResNet): real-valued, but only neurons read it.

Shapes: B batch, L token, D width of the stream, H hidden neurons per block. Inside, tensors are time-major [L, B, .].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikemesh.snn.config import VOCAB, ModelConfig
from spikemesh.snn.modules import LIF, AxonDelay, LeakyReadout, MaskedLinear, balanced_mask


@dataclass(frozen=True)
class BlockState:
    """What one block carries from token to token."""

    stream_v: Tensor
    sent: Tensor
    hidden_v: Tensor


@dataclass(frozen=True)
class ModelState:
    """All that generation remembers: potentials and the last few tokens and spikes. Its size does not grow."""

    last_tokens: Tensor
    blocks: tuple[BlockState, ...]
    output_v: Tensor
    readout: Tensor


class Block(nn.Module):
    """u -> u + W_out LIF(W_in delayed(LIF(u))); also returns the hidden spikes, which the head reads."""

    def __init__(self, config: ModelConfig, rng: np.random.Generator) -> None:
        super().__init__()
        neurons = {"leak": config.initial_leak, "sharpness": config.sharpness}
        self.stream = LIF(config.width, **neurons)
        self.axons = AxonDelay(config.width, num_delays=config.num_axon_delays)
        self.w_in = MaskedLinear(balanced_mask(config.hidden, config.width, config.density, rng))
        self.hidden = LIF(config.hidden, **neurons)
        self.w_out = MaskedLinear(balanced_mask(config.width, config.hidden, config.density, rng))

    def initial_state(self, batch_size: int) -> BlockState:
        return BlockState(
            self.stream.initial_state(batch_size),
            self.axons.initial_state(self.stream.threshold, batch_size),
            self.hidden.initial_state(batch_size),
        )

    def forward(self, u: Tensor, state: BlockState) -> tuple[Tensor, Tensor, BlockState]:
        spikes, stream_v = self.stream(u, state.stream_v)
        arriving, sent = self.axons(spikes, state.sent)
        hidden, hidden_v = self.hidden(self.w_in(arriving), state.hidden_v)
        return u + self.w_out(hidden), hidden, BlockState(stream_v, sent, hidden_v)


class SpikingLM(nn.Module):
    """`forward(tokens [B, L], state) -> (logits [B, L, 256], state)`. Weights are zero until `init` sets them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        rng = np.random.default_rng([config.mask_seed, 0x6D61736B])
        self.embedding = nn.Parameter(torch.zeros(VOCAB, config.width))
        self.delay_mix = nn.Parameter(torch.zeros(config.num_input_delays, config.width))
        self.blocks = nn.ModuleList(Block(config, rng) for _ in range(config.num_blocks))
        self.output = LIF(config.width, leak=config.initial_leak, sharpness=config.sharpness)
        num_read = config.num_blocks * config.hidden + config.width
        self.head = MaskedLinear(balanced_mask(VOCAB, num_read, config.density, rng))
        self.readout = LeakyReadout(VOCAB, leak=config.initial_leak)

    def each_block(self) -> Iterator[Block]:
        """The blocks, first to last."""
        return iter(cast(Iterable[Block], self.blocks))

    def initial_state(self, batch_size: int) -> ModelState:
        """At rest, before any token. Token -1 means: none yet."""
        waiting = self.config.num_input_delays - 1
        return ModelState(
            torch.full((waiting, batch_size), -1, dtype=torch.int64),
            tuple(block.initial_state(batch_size) for block in self.each_block()),
            self.output.initial_state(batch_size),
            self.readout.initial_state(batch_size),
        )

    def forward(self, tokens: Tensor, state: ModelState | None = None) -> tuple[Tensor, ModelState]:
        """Tokens int64 [B, L] in 0..255 -> logits [B, L, 256] for the *next* byte at every place, and the state."""
        before = self.initial_state(tokens.shape[0]) if state is None else state
        u, last_tokens = self.input_currents(tokens.T, before.last_tokens)
        spikes: list[Tensor] = []
        blocks: list[BlockState] = []
        for block, block_before in zip(self.each_block(), before.blocks, strict=True):
            u, hidden, after = block(u, block_before)
            spikes.append(hidden)
            blocks.append(after)
        output, output_v = self.output(u, before.output_v)
        logits, readout = self.readout(self.head(torch.cat([*spikes, output], 2)), before.readout)
        return logits.transpose(0, 1), ModelState(last_tokens, tuple(blocks), output_v, readout)

    def input_currents(self, tokens: Tensor, last_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [L, B] -> input currents [L, B, D], and the tokens that the next call still needs."""
        length, waiting = tokens.shape[0], last_tokens.shape[0]
        history = torch.cat([last_tokens, tokens])
        e = F.embedding(history.clamp_min(0), self.embedding) * (history >= 0).unsqueeze(2)
        u = self.delay_mix[0] * e[waiting:]
        for k in range(1, waiting + 1):
            u = u + self.delay_mix[k] * e[waiting - k : waiting - k + length]
        return u, history[length:]
