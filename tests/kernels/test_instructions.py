"""What the kernels cost, in instructions: a number that does not depend on how fast the machine is, or how busy.

Callgrind counts them, for AVX2 and for the processors that have none of it. It does not know AVX-512.
"""

from __future__ import annotations

import pytest

from tests.kernels.driver import native_driver, require_commands
from tests.kernels.implementations import COMPILED
from tests.machine import cannot

ROOM = 1.15
"""For other compilers, and other versions of the C library."""

MEASURED: dict[str, tuple[float, float]] = {
    "combine_largest_f32": (19.528, 67.992),
    "combine_mean_f32": (17.445, 41.604),
    "combine_mean_f8": (30.152, 62.164),
    "combine_pair_bf16": (23.162, 71.576),
    "combine_pair_f32": (1.976, 5.232),
    "combine_sign_bf16": (35.200, 96.657),
    "combine_sum_f16": (30.283, 70.772),
    "combine_trimmed_f32": (40.575, 140),
    "correlate": (0.380, 1.360),
    "correlate_spikes@0.05": (0.388, 1.390),
    "correlate_spikes@0.10": (0.388, 1.390),
    "correlate_spikes@0.23": (0.388, 1.390),
    "currents_backward": (13.332, 16.684),
    "currents_forward": (6.138, 8.702),
    "decode_positions": (14.844, 31.809),
    "encode_positions": (37.328, 47.977),
    "fold": (38.808, 46.111),
    "lif_backward": (4.302, 10.782),
    "lif_forward": (4.378, 6.509),
    "multiply": (0.317, 1.205),
    "multiply_spikes@0.05": (0.325, 1.232),
    "multiply_spikes@0.10": (0.325, 1.232),
    "multiply_spikes@0.23": (0.325, 1.232),
    "multiply_transposed": (0.326, 1.216),
    "pack_spikes": (2.396, 5.646),
    "pull_float": (28036, 64027),
    "pull_int4": (30455, 67839),
    "pull_int8": (27300, 64186),
    "push_float": (13990, 30039),
    "push_int4": (12860, 31439),
    "push_int8": (29378, 48470),
    "quantise": (39.907, 116),
    "scan": (8.503, 32.000),
    "select_largest": (9.843, 16.744),
}
"""Instructions for AVX2 and generic, by GCC 12.2, per

- synapse and token: multiply, correlate
- neuron and token: lif, pack_spikes, currents (channel and token)
- token and text: push, pull (one text, and 32), 128 channels, 512 hidden neurons, 7 % of the synapses
- value: select_largest; value sent: quantise, positions, fold
- coordinate of one input: combine, scan

After the `@`, how often a neuron spikes; 0.15 where it isn't said.
"""


def _instructions(instruction_set: str, name: str) -> float:
    if instruction_set != "generic" and instruction_set not in COMPILED:
        cannot(f"has no {instruction_set}")
    kernel, _, rate = name.partition("@")
    work, _ = native_driver().run(instruction_set, kernel, float(rate or 0.15))
    return native_driver().count_instructions(instruction_set, kernel, float(rate or 0.15)) / work


@pytest.mark.parametrize("name", MEASURED)
def test_instructions_stay_within_bounds(name: str) -> None:
    require_commands("valgrind")
    avx2, generic = (_instructions(instruction_set, name) for instruction_set in ("avx2", "generic"))
    bounds = [ROOM * measured for measured in MEASURED[name]]
    assert avx2 <= bounds[0], f"{name} takes {avx2:.3f} instructions with AVX2, at most {bounds[0]:.3f} were expected"
    assert generic <= bounds[1], f"{name} takes {generic:.3f} instructions, at most {bounds[1]:.3f} were expected"
    assert avx2 < generic, f"{name} takes {avx2:.3f} instructions with AVX2, and {generic:.3f} without"


def test_every_kernel_is_counted() -> None:
    require_commands("valgrind")
    assert {name.partition("@")[0] for name in MEASURED} == set(native_driver().names("kernel"))
