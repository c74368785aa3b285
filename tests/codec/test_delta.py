"""The delta format: round trips, one encoding per value, size, golden bytes."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import numpy as safetensors_numpy
from tests.codec.examples import CHUNK, DELTA, delta_at, random_delta

from spikemesh.codec import (
    DENSE,
    TABLES,
    TOP_K,
    QuantisedDelta,
    Table,
    decode_delta,
    encode_delta,
    max_delta_bytes,
    read_delta,
)
from spikemesh.crdt import IntegerSum
from spikemesh.kernels.delta import positions_twin

GOLDEN = Path(__file__).parent / "golden"
PAGE = Path(__file__).parents[2] / "docs" / "design" / "wire-format.md"

DIGESTS = {
    ("topk", 0.25): "3ebb44ed13c28c59966147305393313345d65b298d0ff163be4cba764c46550e",
    ("topk", 0.015625): "1b2c5c26066b3000c7b677c843fdfdefce9019296f781fa3154f007bf945e2d5",
    ("topk", 0.9): "14c005fb9e908c4117f3dd68b8b7ecc77a1a7ac9a3a22a141f71382003865fb8",
    ("dense", 1.0): "18a00260c2af56b9b61fc13056b06d024dea68d55282c0c7aec50dfac7cc6f04",
}
"""BLAKE3 of the encodings of seeded deltas: other bytes are another format, which needs another name."""


def same(a: QuantisedDelta, b: QuantisedDelta) -> bool:
    return (
        a.num_coordinates == b.num_coordinates
        and a.table is b.table
        and all(np.array_equal(x, y) for x, y in ((a.indices, b.indices), (a.codes, b.codes), (a.scales, b.scales)))
    )


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    st.integers(1, 2 * CHUNK + 10),
    st.sampled_from([0.0, 0.0001, 1 / 64, 0.25, 0.5, 0.99, 1.0]),
    st.sampled_from(sorted(TABLES)),
    st.integers(0, 2**32),
)
def test_round_trip(num_coordinates: int, density: float, table: str, seed: int) -> None:
    delta = random_delta(np.random.default_rng(seed), num_coordinates, density, TABLES[table])
    data = encode_delta(delta)
    assert len(data) <= max_delta_bytes(num_coordinates)
    decoded = decode_delta(data, num_coordinates=num_coordinates)
    assert same(decoded, delta) and decoded == delta and hash(decoded) == hash(delta)
    assert encode_delta(decoded) == data
    assert decoded.indices.dtype == np.int64 and decoded.codes.dtype == decoded.scales.dtype == np.uint8


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.integers(1, 300), st.data())
def test_positions_take_the_smallest_form(num_coordinates: int, data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.integers(0, num_coordinates - 1)))
    positions = np.array(sorted(chosen), np.int64)
    form, encoded = positions_twin.encode_chunk(positions, num_coordinates)
    assert positions_twin.decode_chunk(form, encoded, len(positions), num_coordinates).tolist() == positions.tolist()
    gaps = np.diff(positions, prepend=-1) - 1
    sizes = [math.ceil(num_coordinates / 8)]
    sizes += [math.ceil(sum((int(gap) >> k) + 1 + k for gap in gaps) / 8) for k in range(20)]
    if len(positions) == num_coordinates:
        assert (form, len(encoded)) == (positions_twin.FULL, 0)
    else:
        assert len(encoded) == min(sizes) == sizes[form - positions_twin.BITMAP]
        assert all(size > len(encoded) for size in sizes[: form - positions_twin.BITMAP])


@pytest.mark.parametrize(
    "indices",
    [
        [],
        [0],
        [CHUNK - 1],
        [CHUNK],
        [CHUNK - 1, CHUNK],
        [2 * CHUNK],
        [0, 2 * CHUNK],
        list(range(CHUNK, 2 * CHUNK)),
        list(range(2 * CHUNK + 1)),
    ],
)
def test_chunk_borders(indices: list[int]) -> None:
    delta = delta_at(np.random.default_rng(0), 2 * CHUNK + 1, np.array(indices, np.int64))
    assert same(decode_delta(encode_delta(delta), num_coordinates=delta.num_coordinates), delta)


def test_golden_bytes() -> None:
    golden = bytes.fromhex((GOLDEN / "delta.hex").read_text())
    assert encode_delta(DELTA) == golden
    assert same(decode_delta(golden, num_coordinates=40), DELTA)


def test_the_page_shows_the_golden_bytes() -> None:
    dump = re.findall(r"^([0-9a-f]{4})  ((?:[0-9a-f]{2} )*[0-9a-f]{2})\b", PAGE.read_text(), re.MULTILINE)
    assert bytes.fromhex("".join(row for _, row in dump)) == encode_delta(DELTA)
    assert [int(offset, 16) for offset, _ in dump] == list(range(0, len(encode_delta(DELTA)), 16))


def test_the_page_shows_the_tables() -> None:
    page = PAGE.read_text()
    for table in TABLES.values():
        assert f"| `{table.name}` | {' '.join(map(str, table.levels))} |" in page


@pytest.mark.parametrize(("table", "density"), DIGESTS)
def test_golden_digests(table: str, density: float) -> None:
    rng = np.random.Generator(np.random.PCG64(1))
    num_coordinates = CHUNK + 999
    indices = np.flatnonzero(rng.random(num_coordinates) < density)
    codes = (rng.random(len(indices)) * 16).astype(np.uint8)
    scales = (rng.random(-(-len(indices) // 64)) * 136).astype(np.uint8)
    delta = QuantisedDelta(num_coordinates, indices, codes, scales, TABLES[table])
    assert blake3(encode_delta(delta)).hexdigest() == DIGESTS[table, density]


def test_any_safetensors_reader_reads_it() -> None:
    delta = random_delta(np.random.default_rng(2), 100_000, 0.25)
    tensors = safetensors_numpy.load(encode_delta(delta))
    assert sorted(tensors) == ["chunks", "codes", "positions", "scales"]
    assert all(tensor.dtype == np.uint8 for tensor in tensors.values())
    assert np.array_equal(tensors["scales"], delta.scales)
    assert np.array_equal(tensors["codes"] & 15, delta.codes[::2])


@pytest.mark.parametrize(("density", "bar"), [(0.25, 0.2325), (1 / 64, 0.0235)])
def test_bytes_per_coordinate(density: float, bar: float) -> None:
    delta = random_delta(np.random.default_rng(3), 1 << 20, density)
    assert len(encode_delta(delta)) / (1 << 20) < bar


def test_to_delta_and_values_agree() -> None:
    for table in (DENSE, TOP_K):
        delta = random_delta(np.random.default_rng(4), 5000, 0.3, table)
        summed = delta.to_delta()
        assert summed.quanta.dtype == np.int32 and np.array_equal(summed.indices, delta.indices)
        assert np.array_equal(summed.quanta * 2.0**-26, delta.values(-26).astype(np.float64))
    level, unit = TOP_K.levels[15], 13 << 3
    assert DELTA.to_delta().quanta[1] == level * unit


@pytest.mark.parametrize(
    "changes",
    [
        {"indices": np.array([3, 2, 11, 30, 39])},
        {"indices": np.array([2, 2, 11, 30, 39])},
        {"indices": np.array([2, 3, 11, 30, 40])},
        {"indices": np.array([-1, 3, 11, 30, 39])},
        {"indices": np.array([2, 3, 11, 30, 39], np.int32)},
        {"codes": np.array([0, 16, 7, 8, 10], np.uint8)},
        {"codes": np.array([0, 15, 7, 8], np.uint8)},
        {"scales": np.array([136], np.uint8)},
        {"scales": np.array([0, 0], np.uint8)},
        {"num_coordinates": 39},
        {"num_coordinates": 0},
        {"num_coordinates": (1 << 32) + 1},
    ],
)
def test_a_delta_out_of_range_cannot_be_made(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        QuantisedDelta(
            **{**{name: getattr(DELTA, name) for name in DELTA.__dataclass_fields__}, **changes}  # type: ignore[arg-type]
        )


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    st.integers(1, 2 * CHUNK + 10),
    st.sampled_from([0.0, 0.0001, 1 / 64, 0.25, 0.99, 1.0]),
    st.sampled_from([1, -1, 4096]),
    st.integers(0, 2**32),
)
def test_a_packed_delta_is_folded_as_its_integers_are(
    num_coordinates: int, density: float, weight: int, seed: int
) -> None:
    delta = random_delta(np.random.default_rng(seed), num_coordinates, density, DENSE)
    packed = read_delta(encode_delta(delta), num_coordinates=num_coordinates)
    assert same(packed.unpack(), delta)
    before = IntegerSum.zero(num_coordinates).fold([(delta.to_delta(), 7)])
    digest = [blake3(chunk.values.tobytes()).digest() for chunk in before.chunks]
    expected = before.fold([(delta.to_delta(), weight), (delta.to_delta(), 3)])
    assert before.fold([(packed, weight), (packed, 3)]) == expected
    assert before.fold([(packed, weight), (packed, 3), (packed, -3), (packed, -weight)]) == before
    assert [blake3(chunk.values.tobytes()).digest() for chunk in before.chunks] == digest


def test_a_sum_shares_the_chunks_that_a_delta_does_not_touch() -> None:
    delta = delta_at(np.random.default_rng(0), 3 * CHUNK, np.array([5, 2 * CHUNK]))
    packed = read_delta(encode_delta(delta), num_coordinates=3 * CHUNK)
    before = IntegerSum.zero(3 * CHUNK)
    for addend in (packed, delta.to_delta()):
        assert addend.touched() == [0, 2]
        after = before.fold([(addend, 1)])
        assert [new is old for new, old in zip(after.chunks, before.chunks, strict=True)] == [False, True, False]
        assert not any(chunk.values.flags.writeable for chunk in after.chunks)
    nothing = read_delta(encode_delta(delta_at(np.random.default_rng(0), 9, np.array([], np.int64))), num_coordinates=9)
    zero = IntegerSum.zero(9)
    assert nothing.touched() == [] and zero.fold([(nothing, 1)]) is zero


def test_tables_differ_in_bytes() -> None:
    def with_table(table: Table) -> bytes:
        return encode_delta(QuantisedDelta(40, DELTA.indices, DELTA.codes, DELTA.scales, table))

    assert with_table(DENSE) != with_table(TOP_K)
