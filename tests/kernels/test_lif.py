"""Leaky membranes in compiled code against the loops of `snn/functional.py`, in both layouts, on every instruction set.

Where spikes are compared, currents and leaks are small binary fractions: nothing is rounded, so the fused multiply-add
that some processors have makes no difference, and one spike too many is a failure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spikemesh.kernels import lif_backward, lif_forward, native, num_bit_bytes
from spikemesh.kernels.spiking.spikes_twin import pack_rows
from spikemesh.snn.functional import _Leaky, _Lif
from tests.kernels.floats import Floats, Guarded
from tests.kernels.implementations import COMPILED, using

pytestmark = pytest.mark.skipif(native is None, reason="the kernels are not compiled")

TIME_MAJOR, FEATURE_MAJOR = (0, 1, 2), (2, 0, 1)
SHARPNESS = 1.3


@dataclass(frozen=True)
class Case:
    """Inputs as [L, B, N], [B, N] and [N] in double precision, and how they are to lie in memory."""

    x: Tensor
    v0: Tensor
    leak: Tensor
    threshold: Tensor
    grad_y: Tensor
    grad_v: Tensor
    axes: tuple[int, ...]
    num_threads: int

    def lie(self, values: Tensor) -> Floats:
        """As float32, in the case's layout."""
        axes = self.axes if values.ndim == 3 else (1, 0) if self.axes == FEATURE_MAJOR and values.ndim == 2 else None
        array = values.numpy().astype(np.float32)
        return array if axes is None else np.ascontiguousarray(array.transpose(axes)).transpose(np.argsort(axes))


SIZES = st.one_of(st.integers(0, 5), st.sampled_from([8, 15, 16, 17, 32, 33, 64, 70]))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    length, batch, neurons = draw(st.integers(1, 8)), draw(SIZES), draw(SIZES)
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def quarters(*shape: int, low: int, high: int) -> Tensor:
        return torch.randint(low, high, shape, generator=random).double() / 4

    return Case(
        x=quarters(length, batch, neurons, low=-4, high=7),
        v0=quarters(batch, neurons, low=-3, high=4),
        leak=quarters(neurons, low=0, high=4),
        threshold=quarters(neurons, low=1, high=6),
        grad_y=torch.randn(length, batch, neurons, generator=random, dtype=torch.float64),
        grad_v=torch.randn(batch, neurons, generator=random, dtype=torch.float64),
        axes=draw(st.sampled_from([TIME_MAJOR, FEATURE_MAJOR])),
        num_threads=draw(st.integers(1, 3)),
    )


def twin(case: Case, *, fires: bool) -> list[Tensor]:
    """y, v and the gradients of x, v0, leak and threshold, from the loops, in double precision."""
    inputs = [case.x, case.v0, case.leak, *([case.threshold] if fires else [])]
    leaves = [values.clone().requires_grad_() for values in inputs]
    if fires:
        y, v = _Lif.apply(*leaves, SHARPNESS)
    else:
        y = _Leaky.apply(*leaves)
        v = y[-1]
    ((y * case.grad_y).sum() + (v * case.grad_v).sum()).backward()
    return [y.detach(), v.detach(), *(leaf.grad for leaf in leaves)]


def kernel(case: Case, *, fires: bool, at_rest: bool = False) -> list[Floats]:
    """The same from the compiled code, in single precision; nothing is written beside the results.

    `at_rest`: no array for v0 and for the gradients of potentials.
    """
    (length, batch, neurons), guarded = case.x.shape, Guarded()
    potentials = (1, 0) if case.axes == FEATURE_MAJOR else (0, 1)
    y, grad_x = (guarded.room((length, batch, neurons), case.axes) for _ in range(2))
    v = guarded.room((batch, neurons), potentials)
    grad_v0 = None if at_rest else guarded.room((batch, neurons), potentials)
    grad_leak, grad_threshold = guarded.room((neurons,)), guarded.room((neurons,)) if fires else None
    inputs = [case.lie(case.x), None if at_rest else case.lie(case.v0), case.lie(case.leak)]
    threshold = case.lie(case.threshold) if fires else None
    lif_forward(*inputs, threshold, y=y, v=v, num_threads=case.num_threads)
    lif_backward(
        *inputs,
        threshold,
        SHARPNESS,
        case.lie(case.grad_y),
        None if at_rest else case.lie(case.grad_v),
        grad_x=grad_x,
        grad_v0=grad_v0,
        grad_leak=grad_leak,
        grad_threshold=grad_threshold,
        num_threads=case.num_threads,
    )
    guarded.check()
    return [array for array in (y, v, grad_x, grad_v0, grad_leak, grad_threshold) if array is not None]


@pytest.mark.parametrize("name", COMPILED)
@given(case=cases(), fires=st.booleans())
def test_kernel_is_the_loop(name: str, case: Case, fires: bool) -> None:
    with using(name):
        found = kernel(case, fires=fires)
    expected = twin(case, fires=fires)
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        assert np.array_equal(ours, theirs.numpy())
    for ours, theirs in zip(found[2:], expected[2:], strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", COMPILED)
@given(case=cases())
def test_spikes_as_bits_are_the_spikes(name: str, case: Case) -> None:
    case, (length, batch, neurons) = replace(case, axes=FEATURE_MAJOR), case.x.shape
    size, v = num_bit_bytes(neurons, length * batch), np.full((batch, neurons), np.nan, np.float32, "F")
    memory = np.full(size + 2 * 67, 0xA5, np.uint8)
    inputs = [case.lie(values) for values in (case.x, case.v0, case.leak, case.threshold)]
    with using(name):
        lif_forward(*inputs, bits=memory[67 : 67 + size], v=v, num_threads=case.num_threads)
    expected, expected_v, *_ = twin(case, fires=True)
    packed = pack_rows(expected.permute(2, 0, 1).reshape(neurons, length * batch).numpy() != 0)
    assert memory[67 : 67 + size].tobytes() == packed.tobytes()
    assert (memory[:67] == 0xA5).all() and (memory[67 + size :] == 0xA5).all()
    assert np.array_equal(v, expected_v.numpy())


@pytest.mark.parametrize("fires", [True, False])
def test_no_step_is_no_change(fires: bool) -> None:
    sizes = {"x": (0, 3, 5), "v0": (3, 5), "leak": (5,), "threshold": (5,), "grad_y": (0, 3, 5), "grad_v": (3, 5)}
    case = Case(**{name: torch.rand(size).double() for name, size in sizes.items()}, axes=TIME_MAJOR, num_threads=2)
    y, v, grad_x, grad_v0, *others = kernel(case, fires=fires)
    assert y.shape == grad_x.shape == (0, 3, 5)
    assert np.array_equal(v, case.lie(case.v0)) and np.array_equal(grad_v0, case.lie(case.grad_v))
    assert not any(grad.any() for grad in others)


@pytest.mark.parametrize("name", COMPILED)
@given(case=cases(), fires=st.booleans())
def test_rest_is_no_array_and_unwanted_gradients_need_none(name: str, case: Case, fires: bool) -> None:
    case = replace(case, v0=torch.zeros_like(case.v0), grad_v=torch.zeros_like(case.grad_v))
    with using(name):
        whole, few = kernel(case, fires=fires), kernel(case, fires=fires, at_rest=True)
    del whole[3]  # the gradient of v0
    assert all(np.array_equal(one, other) for one, other in zip(whole, few, strict=True))


def large(axes: tuple[int, ...], num_threads: int) -> Case:
    """Several parts' worth of work, with currents that round."""
    random = torch.Generator().manual_seed(3)
    x, grad_y = (torch.randn(40, 48, 65, generator=random, dtype=torch.float64) for _ in range(2))
    v0, leak, threshold = torch.zeros(48, 65).double(), torch.full((65,), 0.7).double(), torch.ones(65).double()
    return Case(x, v0, leak, threshold, grad_y, torch.zeros(48, 65).double(), axes, num_threads)


@pytest.mark.parametrize("axes", [TIME_MAJOR, FEATURE_MAJOR])
def test_threads_change_no_bit(axes: tuple[int, ...]) -> None:
    one, *others = ([part.tobytes() for part in kernel(large(axes, n), fires=True)] for n in (1, 2, 3, 7))
    assert all(other == one for other in others)


def test_both_layouts_give_the_same() -> None:
    for ours, theirs in zip(
        kernel(large(TIME_MAJOR, 1), fires=True), kernel(large(FEATURE_MAJOR, 1), fires=True), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    spikes = kernel(large(TIME_MAJOR, 1), fires=True)[0]
    assert 0.05 < spikes.mean() < 0.5


def test_arrays_that_do_not_fit_are_refused() -> None:
    x, v, n = np.zeros((4, 3, 5), np.float32), np.zeros((3, 5), np.float32), np.ones(5, np.float32)
    lif_forward(x, v, n, n, y=x.copy(), v=v.copy())
    feature_major = np.zeros((5, 4, 3), np.float32).transpose(1, 2, 0)
    for wrong in (
        {"x": feature_major},
        {"y": feature_major},
        {"v0": v[:2]},
        {"leak": n[:4]},
        {"threshold": np.ones(6, np.float32)},
        {"v": v.T.copy().T},
        {"y": x[:3].copy()},
        {"num_threads": 0},
        {"y": None},
        {"bits": np.zeros(160, np.uint8)},
        {"y": None, "bits": np.zeros(160, np.uint8)},
    ):
        arguments = {"x": x, "v0": v, "leak": n, "threshold": n, "y": x.copy(), "v": v.copy()} | wrong
        with pytest.raises(ValueError):
            lif_forward(**arguments)
            pytest.fail(f"{list(wrong)} was taken")
    currents, potentials = feature_major, np.zeros((5, 3), np.float32).T
    lif_forward(currents, potentials, n, n, bits=np.zeros(160, np.uint8), v=potentials.copy("K"))
    for threshold, size in ((None, 160), (n, 128)):
        with pytest.raises(ValueError):
            lif_forward(currents, potentials, n, threshold, bits=np.zeros(size, np.uint8), v=potentials.copy("K"))
