"""`scan`: each implementation against the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spikemesh.kernels as kernels
from spikemesh.kernels import ELEMENTS, Element, Scan
from spikemesh.kernels.merge import combine_twin as twin
from tests.kernels import reference
from tests.kernels.implementations import ALL, scan
from tests.kernels.strategies import FLOATS, windows

pytestmark = pytest.mark.filterwarnings("error")

by_implementation = pytest.mark.parametrize("implementation", ALL)
by_element = pytest.mark.parametrize("element", FLOATS, ids=lambda element: element.name)


@by_element
@settings(max_examples=40)
@given(data=st.data())
def test_every_element_type(element: Element, data: st.DataObject) -> None:
    drawn = data.draw(windows(element=element, max_inputs=1)).inputs[0] * data.draw(st.sampled_from([1, 1, 29]))
    for name in ALL:
        assert scan(name, drawn, element) == reference.scan(drawn, element)


@by_element
@by_implementation
def test_every_bit_pattern_of_the_small_types(implementation: str, element: Element) -> None:
    bits = 8 * element.size_bytes
    sample = range(1 << bits) if bits <= 16 else range(0, 1 << bits, (1 << bits) // 9973)
    data = b"".join(code.to_bytes(element.size_bytes, "little") for code in sample)
    assert scan(implementation, data, element) == reference.scan(data, element)


@by_implementation
def test_a_long_one(implementation: str) -> None:
    values = np.zeros(2 * twin.STRETCH + 3, np.float32)
    values[1000::7] = 0.5
    values[[-1, 5]] = -3, 8
    values[[6, -2]] = np.nan, np.inf
    found = scan(implementation, values.tobytes(), ELEMENTS["F32"])
    assert found == (np.count_nonzero(values), 2, -3.0, 8.0)


@by_element
@by_implementation
def test_nothing_to_bound(implementation: str, element: Element) -> None:
    nan = (reference.sign_bit(element) - 1).to_bytes(element.size_bytes, "little")
    assert scan(implementation, b"", element) == (0, 0, 0.0, 0.0)
    assert scan(implementation, nan * 9, element) == (9, 9, 0.0, 0.0)


@by_element
@by_implementation
def test_zeros_have_no_sign(implementation: str, element: Element) -> None:
    minus_zero = reference.sign_bit(element).to_bytes(element.size_bytes, "little")
    nonzero, non_finite, smallest, largest = scan(implementation, minus_zero * 9, element)
    assert (nonzero, non_finite) == (0, 0)
    assert math.copysign(1, smallest) == math.copysign(1, largest) == 1


@by_implementation
def test_misuse_is_a_value_error(implementation: str) -> None:
    for data, element in ((bytes(7), ELEMENTS["F32"]), (bytes(8), Element("F128", 4, "float", "", 6))):
        with pytest.raises(ValueError, match="expected whole elements of a known type"):
            scan(implementation, data, element)


def test_the_public_face() -> None:
    data = np.array([0, -2.5, np.nan, 4], np.float16).view(np.uint8)
    assert kernels.scan(data, ELEMENTS["F16"]) == Scan(nonzero=3, non_finite=1, smallest=-2.5, largest=4.0)
    with pytest.raises(ValueError, match="expected a float element type, not BOOL"):
        kernels.scan(data, ELEMENTS["BOOL"])
