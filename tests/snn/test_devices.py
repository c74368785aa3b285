"""What a GPU runs, without one: half precision where it may be, and nothing left behind on the CPU."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from spikemesh.snn import LIF, MaskedLinear, ModelConfig, SpikingLM, leaky_integral, lif
from spikemesh.train import next_byte_loss


def test_currents_of_half_precision_move_membranes_of_single_precision() -> None:
    """Potentials are sums of hundreds of currents: kept in bfloat16 they would stand still near a threshold."""
    x = torch.full((300, 1, 2), 2**-9)
    v0, leak, threshold = torch.zeros(1, 2), torch.ones(2), torch.full((2,), 0.5)
    spikes, v = lif(x.bfloat16(), v0, leak, threshold)
    expected, expected_v = lif(x, v0, leak, threshold)
    assert spikes.dtype == torch.bfloat16 and v.dtype == torch.float32
    assert torch.equal(spikes.float(), expected) and torch.equal(v, expected_v) and expected.sum() == 2
    y = leaky_integral(x.bfloat16(), v0, leak)
    assert y.dtype == torch.float32 and float(y[-1, 0, 0]) == 300 * 2**-9


def test_products_of_half_precision(model: SpikingLM, tokens: npt.NDArray[np.int64]) -> None:
    """Under autocast: currents in bfloat16, membranes and logits not; the loss and its gradient hardly notice."""
    windows, seen = torch.from_numpy(tokens[:8, :48]), {}

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], outputs: object) -> None:
        made = outputs if isinstance(outputs, torch.Tensor) else outputs[1]  # type: ignore[index]
        seen.setdefault(type(module), set()).add(made.dtype)

    handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, LIF | MaskedLinear)]
    with torch.autocast("cpu", torch.bfloat16):
        loss = next_byte_loss(model, windows)
        logits, state = model(windows)
    for handle in handles:
        handle.remove()
    loss.backward()  # type: ignore[no-untyped-call]
    assert seen == {LIF: {torch.float32}, MaskedLinear: {torch.bfloat16}}
    assert logits.dtype == state.output_v.dtype == torch.float32
    gradient = torch.cat([values.grad.flatten() for values in model.parameters() if values.grad is not None])
    model.zero_grad()
    expected = next_byte_loss(model, windows)
    expected.backward()  # type: ignore[no-untyped-call]
    whole = torch.cat([values.grad.flatten() for values in model.parameters() if values.grad is not None])
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=0.05)
    assert float(torch.cosine_similarity(gradient, whole, 0)) > 0.9


def test_no_state_is_left_on_the_cpu(config: ModelConfig) -> None:
    """The device of tensors without numbers stands for a GPU."""
    state = SpikingLM(config).to("meta").initial_state(3)
    tensors = [state.last_tokens, state.output_v, state.readout]
    tensors += [values for block in state.blocks for values in (block.stream_v, block.sent, block.hidden_v)]
    assert {values.device.type for values in tensors} == {"meta"}
