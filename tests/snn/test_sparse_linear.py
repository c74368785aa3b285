"""Synapses only is the masked dense matrix: results, gradients, coordinates, files; and it follows its buffers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from spikemesh.kernels import native
from spikemesh.snn import (
    LIF,
    Layout,
    MaskedLinear,
    ModelConfig,
    SparseLinear,
    SpikingLM,
    dense_tensors,
    model_from_dense,
    model_from_tensors,
    to_tensors,
    weight_densities,
)
from spikemesh.snn.memory import feature_major, is_feature_major
from spikemesh.snn.packed import PackedSpikes
from spikemesh.train import Recipe, batch, make_optimiser, next_byte_loss, train_step


def layers(seed: int = 0, rows: int = 40, columns: int = 300) -> tuple[MaskedLinear, SparseLinear]:
    """Rows with different numbers of synapses, one with none."""
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, columns)) < rng.random((rows, 1)) * 0.3
    mask[3] = False
    dense = MaskedLinear(mask)
    with torch.no_grad():
        dense.weight.copy_(dense.laid(torch.from_numpy(rng.standard_normal(int(mask.sum()), np.float32))))
    return dense, dense.to_sparse()


def inputs(spiking: bool, sizes: tuple[int, ...] = (300,)) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    draw = (
        (lambda n: (torch.rand(9, 5, n, generator=random) < 0.3).float())
        if spiking
        else (lambda n: torch.randn(9, 5, n, generator=random))
    )
    return [draw(size).requires_grad_() for size in sizes]


@pytest.mark.parametrize("spiking", [True, False])
@pytest.mark.parametrize("sizes", [(300,), (100, 150, 50)])
@pytest.mark.parametrize("lie", [lambda x: x, feature_major])
def test_results_and_gradients_are_those_of_the_dense_layer(
    spiking: bool, sizes: tuple[int, ...], lie: Callable[[Tensor], Tensor]
) -> None:
    dense, sparse = layers()
    parts, twins = inputs(spiking, sizes), inputs(spiking, sizes)
    y, expected = sparse(*(lie(part) for part in parts)), dense(*twins)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    y.backward(grad)
    expected.backward(grad)
    for part, twin in zip(parts, twins, strict=True):
        torch.testing.assert_close(part.grad, twin.grad, rtol=1e-4, atol=1e-4)
    assert dense.weight.grad is not None
    torch.testing.assert_close(sparse.weight.grad, dense.weight.grad[dense.mask], rtol=1e-4, atol=1e-4)


def test_other_precisions_work_too() -> None:
    dense, sparse = layers()
    x = inputs(True)[0].detach().double()
    torch.testing.assert_close(sparse.double()(x), dense.double()(x))
    assert torch.autograd.gradcheck(sparse, (x[:2, :1].requires_grad_(),))


def test_a_layer_of_nothing() -> None:
    layer = SparseLinear(np.zeros((4, 6), np.bool_))
    y = layer(torch.ones(2, 3, 6, requires_grad=True))
    y.sum().backward()
    assert y.shape == (2, 3, 4) and not y.any() and layer.weight.grad is not None
    assert layer(torch.ones(0, 3, 6)).shape == (0, 3, 4)


def test_what_is_kept_is_one_number_per_synapse_in_row_major_order() -> None:
    dense, sparse = layers()
    assert sparse.weight.shape == (sparse.num_alive,) == (dense.num_alive,)
    assert torch.equal(sparse.weight, dense.weight[dense.mask])
    assert torch.equal(sparse.mask, dense.mask) and sparse.shape == dense.shape
    assert torch.equal(sparse.full(sparse.weight), dense.weight)
    assert torch.equal(sparse.to_dense().weight, dense.weight)
    assert sparse.pattern.num_bytes < 9 * sparse.num_alive + 16 * sum(sparse.shape)


def test_it_follows_its_buffers() -> None:
    """`load_state_dict` writes into them, and a copy has its own."""
    _, one = layers(0)
    mask = one.mask.roll(1, 0)
    other = SparseLinear(mask.numpy())
    with torch.no_grad():
        other.weight.normal_()
    x = inputs(True)[0].detach()
    clone = copy.deepcopy(one)
    before = one(x)
    one.load_state_dict(other.state_dict())
    assert torch.equal(one.mask, mask)
    assert torch.equal(one(x), other(x))
    assert torch.equal(clone(x), before)


def sparse_twin(model: SpikingLM) -> SpikingLM:
    return copy.deepcopy(model).to_sparse()


def test_a_sparse_model_has_the_same_coordinates_and_files(model: SpikingLM, config: ModelConfig) -> None:
    sparse, layout = sparse_twin(model), Layout.of(model)
    assert Layout.of(sparse) == layout
    assert np.array_equal(layout.gather(sparse), layout.gather(model))
    assert sum(values.numel() for values in sparse.parameters()) == layout.num_coordinates
    theta = np.random.default_rng(0).standard_normal(layout.num_coordinates).astype(np.float32)
    for form in (sparse, model):
        layout.scatter_(form, theta)
        assert np.array_equal(layout.gather(form), theta)
    ours, theirs = to_tensors(sparse), to_tensors(model)
    assert {name: array.tobytes() for name, array in ours.items()} == {n: a.tobytes() for n, a in theirs.items()}
    full = dense_tensors(model)
    assert all(np.array_equal(array, full[name]) for name, array in dense_tensors(sparse).items())
    for again in (model_from_tensors(config, ours, sparse=True), model_from_dense(config, full, sparse=True)):
        assert isinstance(again.head, SparseLinear) and Layout.of(again) == layout
        assert np.array_equal(layout.gather(again), theta)
    assert weight_densities(sparse) == weight_densities(model)
    assert np.array_equal(layout.gather(sparse.to_dense()), theta)
    assert isinstance(sparse.head, MaskedLinear) and sparse.to_dense() is sparse


def test_a_sparse_model_gives_the_same_logits_and_gradients(model: SpikingLM, tokens: npt.NDArray[np.int64]) -> None:
    sparse, windows, layout = sparse_twin(model), torch.from_numpy(tokens[:8]), Layout.of(model)
    logits, state = sparse(windows[:, :50])
    expected, expected_state = model(windows[:, :50])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    for ours, theirs in ((state, expected_state),):
        torch.testing.assert_close(ours.readout, theirs.readout, rtol=0, atol=1e-4)
        assert torch.equal(ours.blocks[1].sent, theirs.blocks[1].sent)
    logits, _ = sparse(windows[:, 50:], state)
    torch.testing.assert_close(logits, model(windows[:, 50:], expected_state)[0], rtol=0, atol=1e-4)
    gradients = []
    for form in (sparse, model):
        form.zero_grad()
        next_byte_loss(form, windows).backward()
        gradients.append(layout.gather_values(form, {name: p.grad for name, p in form.named_parameters()}))  # type: ignore[misc]
    scale = np.abs(gradients[1]).max()
    np.testing.assert_allclose(gradients[0] / scale, gradients[1] / scale, atol=1e-4)


@pytest.mark.skipif(native is None, reason="the kernels are not compiled")
def test_nothing_is_transposed_between_layers(model: SpikingLM, tokens: npt.NDArray[np.int64]) -> None:
    sparse, seen, packed = sparse_twin(model), [], []

    def note(_module: object, arguments: tuple[Tensor, ...], results: object) -> None:
        outputs = results if isinstance(results, tuple) else (results,)
        tensors = [values for values in (*arguments, *outputs) if isinstance(values, Tensor)]
        packed.extend(values for values in (*arguments, *outputs) if isinstance(values, PackedSpikes))
        seen.extend(is_feature_major(values) for values in tensors if values.ndim == 3)

    for module in sparse.modules():
        if isinstance(module, LIF | SparseLinear):
            module.register_forward_hook(note)
    sparse(torch.from_numpy(tokens[:4, :20]))
    assert len(seen) >= 10 and all(seen)
    assert len(packed) >= 10, "and spikes travel as bits"


def test_training_loses_nothing(model: SpikingLM, tokens: npt.NDArray[np.int64]) -> None:
    """Twenty steps of both forms: the same losses, and optimiser state for synapses only."""
    text = tokens.astype(np.uint8).reshape(-1)
    recipe = Recipe(batch_size=8, num_tokens=48, learning_rate=0.01)
    losses = []
    for form in (sparse_twin(model), model):
        optimiser = make_optimiser(form, recipe)
        windows = [batch(text, seed=1, step=step, batch_size=8, num_tokens=48) for step in range(20)]
        losses.append([train_step(form, optimiser, torch.from_numpy(w), 0.01, recipe).loss for w in windows])
        moments = sum(state["exp_avg"].numel() for state in optimiser.state.values())
        assert moments == sum(values.numel() for values in form.parameters())
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-4)
    assert losses[0][-1] < losses[0][0] - 1
