"""The kernels on another processor: `generic` as a Raspberry Pi or a Mac gets it, for ARM and run in an emulator.

What is promised to be the same bits everywhere is: merging, deltas, events, sums of spikes, input currents. Potentials,
gradients and products of numbers stay within what the tests on this processor allow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tests.kernels.driver import aarch64_driver, native_driver

SET = "generic"
NOT_EXACT = ("correlate", "correlate_spikes", "currents_backward", "lif_backward", "lif_forward", "multiply")
NOT_EXACT += ("multiply_transposed",)


def test_arm_has_the_same_kernels() -> None:
    assert aarch64_driver().names("set") == [SET]
    assert aarch64_driver().names("kernel") == native_driver().names("kernel")


def test_results_are_those_of_this_processor() -> None:
    for kernel in native_driver().names("kernel"):
        (work, here), (same, there) = native_driver().run(SET, kernel), aarch64_driver().run(SET, kernel)
        assert work == same and here.keys() == there.keys() and here
        for name, values in here.items():
            _compare(f"{kernel}: {name}", values, there[name], exact=kernel not in NOT_EXACT)


def _compare(what: str, here: npt.NDArray[Any], there: npt.NDArray[Any], *, exact: bool) -> None:
    assert here.any() and np.isfinite(here).all(), what
    if exact:
        assert np.array_equal(there, here), what
    else:
        np.testing.assert_allclose(there, here, rtol=2e-5, atol=2e-6 * np.abs(here).max(), err_msg=what)
