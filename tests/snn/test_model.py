"""Causality, state, binary traffic between weight matrices, and masks that stay."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from spikemesh.errors import InvalidData
from spikemesh.snn import MaskedLinear, ModelConfig, SparseLinear, SpikingLM, dense_tensors
from spikemesh.snn.modules import Spikes
from spikemesh.snn.packed import PackedSpikes


def masked_weights(model: SpikingLM) -> list[tuple[Tensor, Tensor]]:
    layers = [m for m in model.modules() if isinstance(m, MaskedLinear)]
    assert layers
    return [(layer.weight.detach(), layer.mask) for layer in layers]


@pytest.mark.parametrize("sparse", [False, True])
def test_changing_a_token_changes_no_output_before_it(
    model: SpikingLM, tokens: npt.NDArray[np.int64], sparse: bool
) -> None:
    if sparse:
        model.to_sparse()
    original = torch.from_numpy(tokens[:2, :40])
    with torch.no_grad():
        expected, _ = model(original)
        for t in (0, 1, 17, 39):
            changed = original.clone()
            changed[:, t] = (changed[:, t] + 101) % 256
            logits, _ = model(changed)
            assert torch.equal(logits[:, :t], expected[:, :t])
            assert not torch.equal(logits[:, t:], expected[:, t:])


@pytest.mark.parametrize("piece", [1, 3, 16])
def test_token_by_token_with_state_gives_the_logits_of_the_full_pass(
    model: SpikingLM, tokens: npt.NDArray[np.int64], piece: int
) -> None:
    # Double precision: a matrix product of another size may round differently, and a spike is a discontinuity.
    model.double()
    whole = torch.from_numpy(tokens[:3, :48])
    with torch.no_grad():
        expected, expected_state = model(whole)
        state, parts = None, []
        for start in range(0, 48, piece):
            logits, state = model(whole[:, start : start + piece], state)
            parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=0, atol=1e-9)
    assert state is not None
    torch.testing.assert_close(state.readout, expected_state.readout, rtol=0, atol=1e-9)


def test_the_state_does_not_grow(model: SpikingLM, tokens: npt.NDArray[np.int64]) -> None:
    sizes = set()
    for length in (1, 2, 50):
        _, state = model(torch.from_numpy(tokens[:1, :length]))
        block = state.blocks[0]
        sizes.add(tuple(t.shape for t in (state.last_tokens, block.stream_v, block.sent, block.hidden_v)))
    assert len(sizes) == 1


@pytest.mark.parametrize("sparse", [False, True])
def test_every_weight_matrix_reads_zeros_and_ones(
    model: SpikingLM, tokens: npt.NDArray[np.int64], sparse: bool
) -> None:
    two_dimensional = {n.removesuffix(".weight") for n, p in model.named_parameters() if p.ndim == 2}
    if sparse:
        model.to_sparse()
    seen: dict[str, set[float]] = {}

    def note(name: str, populations: tuple[Spikes, ...]) -> None:
        for spikes in populations:
            values = spikes.unpacked() if isinstance(spikes, PackedSpikes) else spikes
            seen.setdefault(name, set()).update(values.unique().tolist())

    for name, module in model.named_modules():
        if isinstance(module, MaskedLinear | SparseLinear):
            module.register_forward_pre_hook(lambda _m, populations, name=name: note(name, populations))
    _, state = model(torch.from_numpy(tokens[:, :20]))
    model(torch.from_numpy(tokens[:, 20:]), state)
    assert set(seen) == two_dimensional - {"embedding", "delay_mix"}, "another weight matrix exists: hook it too"
    assert all(values == {0.0, 1.0} for values in seen.values())


def test_masked_weights_stay_exactly_zero_through_training_and_export(
    model: SpikingLM, tokens: npt.NDArray[np.int64]
) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    before = [weight.clone() for weight, _ in masked_weights(model)]
    for _ in range(5):
        logits, _ = model(torch.from_numpy(tokens[:, :-1]))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(tokens[:, 1:]).flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    exported = dense_tensors(model)
    for (weight, mask), old in zip(masked_weights(model), before, strict=True):
        assert bool((weight[~mask] == 0).all())
        assert float((weight[mask] != old[mask]).double().mean()) > 0.5, "the synapses did train"
    for name, module in model.named_modules():
        if isinstance(module, MaskedLinear):
            assert not exported[f"{name}.weight"][~module.mask.numpy()].any()


def test_a_masked_weight_has_no_effect_even_if_set(model: SpikingLM, tokens: npt.NDArray[np.int64]) -> None:
    with torch.no_grad():
        expected, _ = model(torch.from_numpy(tokens))
        for weight, mask in masked_weights(model):
            weight[~mask] = 7.0
        logits, _ = model(torch.from_numpy(tokens))
    assert torch.equal(logits, expected)


def test_masks_are_balanced_and_sparse() -> None:
    model = SpikingLM(ModelConfig(width=128, hidden=256))
    for _, mask in masked_weights(model):
        per_row = mask.sum(1)
        assert int(per_row.min()) == int(per_row.max()) == round(0.07 * mask.shape[1])
    again = SpikingLM(ModelConfig(width=128, hidden=256))
    other = SpikingLM(ModelConfig(width=128, hidden=256, mask_seed=1))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(masked_weights(model), masked_weights(again), strict=True))
    assert not torch.equal(masked_weights(model)[0][1], masked_weights(other)[0][1])


def test_config_round_trip_and_refusals() -> None:
    config = ModelConfig(width=96, density=1)
    assert ModelConfig.from_dict(config.to_dict()) == config
    attacks: list[dict[str, object]] = [
        {"width": 1 << 40},
        {"width": 0},
        {"width": 12.0},
        {"width": True},
        {"hidden": 1 << 16, "width": 1 << 14, "num_blocks": 64},
        {"density": float("nan")},
        {"density": "0.07"},
        {"colour": 1},
    ]
    for values in attacks:
        with pytest.raises(InvalidData):
            ModelConfig.from_dict(values)
