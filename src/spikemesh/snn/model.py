"""A byte-level language model of spiking neurons, with time on the token axis: one step per token.

    currents  u = sum over k of delay_mix[k] * embedding[token[t-k]]        (a stream of currents, width D)
    block     a = LIF(u), delayed per axon;  h = LIF(W_in a);  u = u + W_out h
    readout   logits = leaky integral of W_head [h of every block, LIF(u)] + bias

Tokens mix only through what neurons carry along: membrane leaks and short axonal delays. So causality holds by
construction, and generation keeps O(1) state per token: no attention, no cache, nothing normalised over tokens.
Every weight matrix reads spikes, 0 or 1. The stream of currents is the membrane shortcut of Hu et al. 2021
(MS-ResNet): real-valued, but only neurons read it.

Shapes: B batch, L token, D width of the stream, H hidden neurons per block. Inside, tensors are [L, B, .], lying as
`memory` says: feature-major where compiled kernels multiply by synapses, time-major elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikemesh.snn.compiled import InputCurrents, has_kernels
from spikemesh.snn.config import VOCAB, ModelConfig
from spikemesh.snn.modules import (
    LIF,
    AnyLinear,
    AxonDelay,
    LeakyReadout,
    MaskedLinear,
    SparseLinear,
    Spikes,
    balanced_mask,
)


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


MaskSource = Callable[[str, int, int], npt.NDArray[np.bool_]]
"""(name of a weight, its rows, its columns) -> its mask."""


def random_masks(config: ModelConfig) -> MaskSource:
    """Balanced masks by the config's seed: the masks of a new run."""
    return lambda name, rows, columns: balanced_mask(rows, columns, config.density, seed=config.mask_seed, name=name)


class Block(nn.Module):
    """u -> u + W_out LIF(W_in delayed(LIF(u))); also returns the hidden spikes, which the head reads."""

    def __init__(self, config: ModelConfig, *, w_in: AnyLinear, w_out: AnyLinear) -> None:
        super().__init__()
        neurons = {"leak": config.initial_leak, "sharpness": config.sharpness}
        self.stream = LIF(config.width, **neurons)
        self.axons = AxonDelay(config.width, num_delays=config.num_axon_delays)
        self.w_in = w_in
        self.hidden = LIF(config.hidden, **neurons)
        self.w_out = w_out

    def initial_state(self, batch_size: int) -> BlockState:
        return BlockState(
            self.stream.initial_state(batch_size),
            self.axons.initial_state(self.stream.threshold, batch_size),
            self.hidden.initial_state(batch_size),
        )

    def forward(self, u: Tensor, state: BlockState) -> tuple[Tensor, Spikes, BlockState]:
        packed = isinstance(self.w_in, SparseLinear) and has_kernels(u)
        spikes, stream_v = self.stream(u, state.stream_v, packed=packed)
        arriving, sent = self.axons(spikes, state.sent)
        hidden, hidden_v = self.hidden(self.w_in(arriving), state.hidden_v, packed=packed)
        return u + self.w_out(hidden), hidden, BlockState(stream_v, sent, hidden_v)


class SpikingLM(nn.Module):
    """`forward(tokens [B, L], state) -> (logits [B, L, 256], state)`. Weights are zero until `init` sets them.

    `sparse` keeps nothing but synapses, which is fast with compiled kernels on a CPU; otherwise weights are dense and
    masked. Both are the same model: names, coordinates (`layout`) and results, up to the rounding of sums.

    On a GPU use dense weights; under `torch.autocast` products are then of half precision, and every potential, the
    stream of currents and the logits stay float32.
    """

    def __init__(self, config: ModelConfig, *, sparse: bool = False, masks: MaskSource | None = None) -> None:
        super().__init__()
        self.config = config
        mask_of = random_masks(config) if masks is None else masks
        kind = SparseLinear if sparse else MaskedLinear
        shapes = config.weight_shapes()

        def layer(name: str) -> AnyLinear:
            return kind(mask_of(f"{name}.weight", *shapes[f"{name}.weight"]))

        self.embedding = nn.Parameter(torch.zeros(VOCAB, config.width))
        self.delay_mix = nn.Parameter(torch.zeros(config.num_input_delays, config.width))
        self.blocks = nn.ModuleList(
            Block(config, w_in=layer(f"blocks.{k}.w_in"), w_out=layer(f"blocks.{k}.w_out"))
            for k in range(config.num_blocks)
        )
        self.output = LIF(config.width, leak=config.initial_leak, sharpness=config.sharpness)
        self.head = layer("head")
        self.readout = LeakyReadout(VOCAB, leak=config.initial_leak)

    def to_sparse(self) -> SpikingLM:
        """Keep nothing but synapses from now on: in place, as `nn.Module.to`. Weights become other parameters."""
        return self._convert(lambda layer: layer.to_sparse() if isinstance(layer, MaskedLinear) else layer)

    def to_dense(self) -> SpikingLM:
        """Masked dense weights from now on: in place, as `nn.Module.to`. Weights become other parameters."""
        return self._convert(lambda layer: layer.to_dense() if isinstance(layer, SparseLinear) else layer)

    def _convert(self, convert: Callable[[AnyLinear], AnyLinear]) -> SpikingLM:
        for block in self.each_block():
            block.w_in, block.w_out = convert(block.w_in), convert(block.w_out)
        self.head = convert(self.head)
        return self

    def each_block(self) -> Iterator[Block]:
        """The blocks, first to last."""
        return iter(cast(Iterable[Block], self.blocks))

    def initial_state(self, batch_size: int) -> ModelState:
        """At rest, before any token. Token -1 means: none yet."""
        waiting = self.config.num_input_delays - 1
        return ModelState(
            torch.full((waiting, batch_size), -1, dtype=torch.int64, device=self.embedding.device),
            tuple(block.initial_state(batch_size) for block in self.each_block()),
            self.output.initial_state(batch_size),
            self.readout.initial_state(batch_size),
        )

    def forward(self, tokens: Tensor, state: ModelState | None = None) -> tuple[Tensor, ModelState]:
        """Tokens int64 [B, L] in 0..255 -> logits [B, L, 256] for the *next* byte at every place, and the state."""
        before = self.initial_state(tokens.shape[0]) if state is None else state
        u, last_tokens = self.input_currents(tokens.T, before.last_tokens)
        spikes: list[Spikes] = []
        blocks: list[BlockState] = []
        for block, block_before in zip(self.each_block(), before.blocks, strict=True):
            u, hidden, after = block(u, block_before)
            spikes.append(hidden)
            blocks.append(after)
        packed = isinstance(self.head, SparseLinear) and has_kernels(u)
        output, output_v = self.output(u, before.output_v, packed=packed)
        logits, readout = self.readout(self.head(*spikes, output), before.readout)
        return logits.transpose(0, 1), ModelState(last_tokens, tuple(blocks), output_v, readout)

    def input_currents(self, tokens: Tensor, last_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [L, B] -> input currents [L, B, D], and the tokens that the next call still needs."""
        length, waiting = tokens.shape[0], last_tokens.shape[0]
        history = torch.cat([last_tokens, tokens])
        if isinstance(self.head, SparseLinear) and has_kernels(self.embedding):
            u: Tensor = InputCurrents.apply(history, self.embedding, self.delay_mix)  # type: ignore[no-untyped-call]
            return u, history[length:]
        e = F.embedding(history.clamp_min(0), self.embedding) * (history >= 0).unsqueeze(2)
        u = self.delay_mix[0] * e[waiting:]
        for k in range(1, waiting + 1):
            u = u + self.delay_mix[k] * e[waiting - k : waiting - k + length]
        return u, history[length:]
