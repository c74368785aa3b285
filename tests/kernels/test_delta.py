"""The parts of a delta: every implementation against the NumPy twin, on numbers and bytes that are made to be hard."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spikemesh.codec import DENSE, TOP_K, Table
from spikemesh.errors import InvalidData
from spikemesh.kernels import native
from spikemesh.kernels.delta import delta, delta_twin, positions_twin
from spikemesh.kernels.delta.codes import BLOCK_VALUES, MAX_SCALE, num_blocks, pack_codes, quanta
from spikemesh.kernels.delta.positions_twin import CHUNK_COORDINATES, chunk_sizes
from tests.kernels.implementations import COMPILED, using

CHUNK = CHUNK_COORDINATES
GUARD = 67

Array = npt.NDArray[Any]

compiled = pytest.mark.parametrize("name", COMPILED)


def guarded(size: int, dtype: type[np.generic]) -> tuple[Array, Array]:
    """Room for a result, and the memory around it, which must stay as it is."""
    memory = np.full(size + 2 * GUARD, 0x5A, dtype)
    return memory[GUARD : GUARD + size], memory


def untouched(memory: Array) -> bool:
    return bool((memory[:GUARD] == 0x5A).all() and (memory[-GUARD:] == 0x5A).all())


# ---- the largest values ----------------------------------------------------------------------------------------------


def largest(name: str, values: Array, num_sent: int) -> list[int] | None:
    indices, memory = guarded(num_sent, np.int64)
    if name == "numpy":
        finite = delta_twin.select_largest(values, indices)
    else:
        with using(name):
            finite = native.select_largest(values, indices)
    assert untouched(memory)
    return indices.tolist() if finite else None


FEW = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.0000001, 2.0, -2.0, 1e-45, -1e-45, 1e-40, 3.4e38, -3.4e38])


@compiled
@given(hnp.arrays(np.float32, st.integers(1, 300), elements=FEW | st.floats(-4, 4, width=32)), st.floats(0, 1))
def test_the_largest_are_the_same(name: str, values: Array, share: float) -> None:
    num_sent = max(1, round(share * len(values)))
    assert largest(name, values, num_sent) == largest("numpy", values, num_sent)


def _hard_values(kind: str, size: int) -> Array:
    rng = np.random.default_rng(size)
    plain = rng.laplace(size=size).astype(np.float32)
    made = {
        "laplace": plain,
        "sorted": np.sort(plain),
        "all equal": np.full(size, -3.5, np.float32),
        "two values": np.where(plain > 0.5, np.float32(2), np.float32(-1)),
        "one digit": np.float32(1) + rng.random(size).astype(np.float32) * np.float32(1e-5),
        "the sample is wrong": np.where(np.arange(size) % max(1, size // 4096) == 0, np.float32(1e6), plain),
        "every size": (rng.integers(0, 0x7F800000, size, np.uint32)).view(np.float32),
        "mostly zero": np.where(rng.random(size) < 0.01, plain, np.float32(0)),
    }
    return np.ascontiguousarray(made[kind], np.float32)


@compiled
@pytest.mark.parametrize(
    "kind",
    ["laplace", "sorted", "all equal", "two values", "one digit", "the sample is wrong", "every size", "mostly zero"],
)
def test_the_largest_of_many_are_the_same(name: str, kind: str) -> None:
    for size in (4097, 40_000):
        values = _hard_values(kind, size)
        for num_sent in (1, size // 64, size // 4, size // 2 + 1, size - 1, size):
            assert largest(name, values, num_sent) == largest("numpy", values, num_sent)


@compiled
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_has_no_order_is_seen_anywhere(name: str, bad: float) -> None:
    for size in (1, 15, 16, 17, 5000):
        for where in {0, size // 2, size - 1}:
            values = np.ones(size, np.float32)
            values[where] = bad
            assert largest(name, values, 1) is None


# ---- codes and scales ------------------------------------------------------------------------------------------------

TABLES = (
    DENSE,
    TOP_K,
    Table("uneven", (-60, *range(100, 115))),
    Table("narrow", (-127, *range(-7, 7), 127)),
    Table("ends", (*range(-127, -119), *range(120, 128))),
)


def codes_and_scales(name: str, values: Array, table: Table, shift: int) -> tuple[bytes, bytes] | None:
    codes, memory = guarded(len(values), np.uint8)
    scales, scale_memory = guarded(num_blocks(len(values)), np.uint8)
    arguments = values, table.level_array, table.nearest, shift, codes, scales
    if name == "numpy":
        within = delta_twin.quantise(*arguments)
    else:
        with using(name):
            within = native.quantise(*arguments)
    assert untouched(memory) and untouched(scale_memory)
    return (codes.tobytes(), scales.tobytes()) if within else None


@compiled
@given(
    hnp.arrays(np.float32, st.integers(0, 200), elements=FEW | st.floats(-1.5, 1.5, width=32)),
    st.sampled_from(TABLES),
    st.sampled_from([26, 26, 26, 20, 0, -30, 64, 126, 127, 128, 149, 200, -126, -127, -150, 400, -400]),
)
def test_codes_and_scales_are_the_same(name: str, values: Array, table: Table, shift: int) -> None:
    assert codes_and_scales(name, values, table, shift) == codes_and_scales("numpy", values, table, shift)


@compiled
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_codes_and_scales_of_many_are_the_same(name: str, table: Table) -> None:
    """Where two scales are nearly as good, one rounding in the sum of squared errors decides between them."""
    rng = np.random.default_rng(5)
    for values in (rng.laplace(size=50_001), rng.standard_normal(20_000) ** 3, rng.integers(-40, 40, 20_000) / 8):
        some = (values * 1e-3).astype(np.float32)
        result = codes_and_scales(name, some, table, 26)
        assert result is not None and result == codes_and_scales("numpy", some, table, 26)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="einsum adds in another order here")
def test_the_twin_adds_as_einsum_does() -> None:
    """The scales are those that have always been chosen; einsum's order is that of NumPy's builds for x86."""
    blocks = np.random.default_rng(6).standard_normal((5000, BLOCK_VALUES)).astype(np.float32)
    assert np.array_equal(delta_twin._sum_of_squares(blocks), np.einsum("bv,bv->b", blocks, blocks))


# ---- positions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Chunks:
    """A chunk table and its bytes, as they might come from anybody."""

    num_coordinates: int
    forms: Sequence[int]
    num_sent: Sequence[int]
    num_bytes: Sequence[int]
    data: bytes

    def arrays(self) -> tuple[Array, Array, Array, Array, int]:
        forms, counts, sizes = (
            np.array(numbers, dtype)
            for numbers, dtype in ((self.forms, np.uint8), (self.num_sent, np.int64), (self.num_bytes, np.int64))
        )
        # the array ends where its memory ends, and begins at an odd address
        return forms, counts, sizes, np.frombuffer(b"\0" + self.data, np.uint8)[1:], self.num_coordinates


def decoded(name: str, chunks: Chunks) -> list[int] | None:
    arguments = chunks.arrays()
    num_sent = arguments[1]
    size = int(num_sent[num_sent != chunk_sizes(chunks.num_coordinates)].sum())
    positions, memory = guarded(size, np.uint16)
    try:
        if name == "numpy":
            good = delta_twin.decode_positions(*arguments, positions)
        else:
            with using(name):
                good = native.decode_positions(*arguments, positions)
    except InvalidData:
        good = False
    assert untouched(memory)
    return positions.tolist() if good else None


def encoded(name: str, indices: Array, num_coordinates: int) -> Chunks:
    with using(name):
        found = delta.encode_positions(indices, num_coordinates)
    return Chunks(
        num_coordinates, found.forms.tolist(), found.num_sent.tolist(), found.num_bytes.tolist(), found.data.tobytes()
    )


def _gaps(kind: str, size: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    if kind == "all":
        return np.arange(size)
    if kind == "runs":
        return np.flatnonzero(np.repeat(rng.random(size // 50 + 1) < 0.5, 50)[:size])
    if kind == "ends":
        return np.unique(np.array([0, size // 2, size - 1]))
    if kind == "wild":
        gaps = (2.0 ** (rng.random(3000) * rng.integers(1, 17))).astype(np.int64)
        return np.cumsum(gaps)[np.cumsum(gaps) < size]
    return np.flatnonzero(rng.random(size) < float(kind))


KINDS = ("all", "runs", "ends", "wild", "0", "0.0001", "0.004", "0.0156", "0.06", "0.25", "0.4", "0.5", "0.7", "0.97")


@compiled
@settings(max_examples=100)
@given(
    st.sampled_from([1, 7, 64, 300, 5000, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 77]),
    st.sampled_from(KINDS),
    st.integers(0, 1 << 32),
)
def test_positions_are_the_same(name: str, num_coordinates: int, kind: str, seed: int) -> None:
    indices = _gaps(kind, num_coordinates, seed)
    chunks = encoded(name, indices, num_coordinates)
    assert chunks.__dict__ == encoded("numpy", indices, num_coordinates).__dict__
    sends_all = np.array(chunks.num_sent) == chunk_sizes(num_coordinates)
    expected = (indices % CHUNK)[~sends_all[indices // CHUNK]].tolist()
    assert decoded(name, chunks) == decoded("numpy", chunks) == expected


@compiled
@settings(max_examples=300)
@given(st.integers(1, 300), st.integers(0, positions_twin.NUM_FORMS - 1), st.integers(0, 40), st.binary(max_size=40))
@example(8, 2, 8, b"\xff")
@example(8, 1, 8, b"\xff")
@example(1, 17, 1, b"\xff\xff\xff")
@example(300, 2, 0, b"")
@example(300, 1, 0, bytes(38))
def test_any_bytes_are_judged_the_same(name: str, size: int, form: int, count: int, data: bytes) -> None:
    chunks = Chunks(size, [form], [min(count, size)], [len(data)], data)
    assert decoded(name, chunks) == decoded("numpy", chunks)


def _mutate(rng: np.random.Generator, chunks: Chunks) -> Chunks:
    """Another form or count, other bits, as many ones at other places, more or fewer bytes."""
    forms, counts, data = list(chunks.forms), list(chunks.num_sent), bytearray(chunks.data)
    bits = np.unpackbits(np.frombuffer(bytes(data), np.uint8), bitorder="little")
    match rng.integers(6):
        case 0:
            forms[0] = int(rng.integers(positions_twin.NUM_FORMS))
        case 1:
            counts[0] = int(np.clip(counts[0] + rng.integers(-2, 3), 0, chunks.num_coordinates))
        case 2 if len(bits):
            bits[rng.integers(len(bits), size=rng.integers(1, 3))] ^= 1
            data = bytearray(np.packbits(bits, bitorder="little").tobytes())
        case 3 if len(bits):
            one, other = rng.integers(len(bits), size=2)
            bits[one], bits[other] = bits[other], bits[one]
            data = bytearray(np.packbits(bits, bitorder="little").tobytes())
        case 4:
            data = data + bytes(int(rng.integers(1, 3)))
        case _:
            data = data[: len(data) - int(rng.integers(1, 10))]
    return Chunks(chunks.num_coordinates, forms, counts, [len(data)], bytes(data))


@compiled
@pytest.mark.parametrize("kind", ["wild", "0.004", "0.0156", "0.06", "0.25", "0.4", "0.5", "0.97"])
def test_mutated_bytes_are_judged_the_same(name: str, kind: str) -> None:
    rng = np.random.default_rng(8)
    accepted = 0
    for size in (3000, CHUNK):
        for _ in range(25):
            chunks = encoded("numpy", _gaps(kind, size, int(rng.integers(1 << 30))), size)
            for _ in range(4):
                mutated = _mutate(rng, chunks)
                expected = decoded("numpy", mutated)
                assert decoded(name, mutated) == expected
                accepted += expected is not None
    assert accepted  # swapped bits are other positions, often as short


@compiled
def test_indices_that_are_none_are_not_encoded(name: str) -> None:
    for bad in ([-1], [40], [3, 3], [3, 2], [1 << 40], [-(1 << 63), 3], [*range(30), 29]):
        for one in (name, "numpy"):
            with pytest.raises(ValueError, match="ascending"):
                encoded(one, np.array(bad, np.int64), 40)


# ---- the sum ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Packed:
    """What is sent to a sum, and the sums of the chunks that it touches."""

    num_coordinates: int
    num_sent: Array
    positions: Array
    codes: Array
    scales: Array
    before: list[Array]

    @classmethod
    def random(cls, num_coordinates: int, indices: Array, seed: int) -> Packed:
        rng = np.random.default_rng(seed)
        sizes = chunk_sizes(num_coordinates)
        counts = np.bincount(indices // CHUNK, minlength=len(sizes)).astype(np.int64)
        before = [rng.integers(-(1 << 60), 1 << 60, size) for size in sizes[counts > 0]]
        codes = pack_codes(rng.integers(0, 16, len(indices), np.uint8))
        scales = rng.integers(0, MAX_SCALE + 1, num_blocks(len(indices)), np.uint8)
        positions = (indices % CHUNK)[(counts != sizes)[indices // CHUNK]].astype(np.uint16)
        return cls(num_coordinates, counts, positions, codes, scales, before)


def folded(
    name: str, packed: Packed, table: Table = TOP_K, weight: int = 1, *, in_place: bool = False
) -> list[Array] | None:
    rooms = [guarded(len(sums), np.int64) for sums in packed.before]
    after = [room for room, _ in rooms]
    if in_place:
        for room, sums in zip(after, packed.before, strict=True):
            room[:] = sums
    before = after if in_place else [sums.copy() for sums in packed.before]
    for sums in () if in_place else before:
        sums.flags.writeable = False
    head = packed.num_sent, packed.num_coordinates, packed.positions, packed.codes, packed.scales
    if name == "numpy":
        valid = delta_twin.fold(*head, table.level_array, weight, before, after)
    else:
        with using(name):
            valid = native.fold(*head, table.level_array, weight, before, after)
    assert all(untouched(memory) for _, memory in rooms)
    return after if valid else None


def same(left: list[Array] | None, right: list[Array] | None) -> bool:
    if left is None or right is None:
        return left is right
    return len(left) == len(right) and all(map(np.array_equal, left, right))


@compiled
@settings(max_examples=100)
@given(
    st.sampled_from([1, 7, 64, 300, 5000, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 77]),
    st.sampled_from(KINDS),
    st.integers(0, 1 << 32),
    st.sampled_from(TABLES),
    st.sampled_from([1, -1, 1024, 4096, -4096]),
    st.booleans(),
)
def test_sums_are_the_same(
    name: str, num_coordinates: int, kind: str, seed: int, table: Table, weight: int, in_place: bool
) -> None:
    packed = Packed.random(num_coordinates, _gaps(kind, num_coordinates, seed), seed)
    expected = folded("numpy", packed, table, weight)
    assert expected is not None and same(folded(name, packed, table, weight, in_place=in_place), expected)
    assert same(folded("numpy", packed, table, weight, in_place=True), expected)


@pytest.mark.parametrize("name", ["numpy", *COMPILED])
def test_a_sum_is_what_it_says(name: str) -> None:
    """Said again in Python's integers, value by value."""
    indices = _gaps("0.06", 3000, 1)
    packed = Packed.random(3000, indices, 2)
    expected = packed.before[0].tolist()
    for k, index in enumerate(indices.tolist()):
        code = int(packed.codes[k // 2]) >> 4 * (k % 2) & 15
        scale = int(packed.scales[k // BLOCK_VALUES])
        expected[index] += -7 * DENSE.levels[code] * ((8 + scale % 8) << scale // 8)
    result = folded(name, packed, DENSE, -7)
    assert result is not None and result[0].tolist() == expected


@pytest.mark.parametrize("name", ["numpy", *COMPILED])
@pytest.mark.parametrize("kind", ["0.0156", "0.25", "0.97"])
def test_what_a_sum_cannot_take_is_refused(name: str, kind: str) -> None:
    size = 3000
    good = Packed.random(size, _gaps(kind, size, 3), 4)
    assert folded(name, good) is not None
    for change in ("beyond", "beyond all", "twice", "back", "scale"):
        positions, scales = good.positions.copy(), good.scales.copy()
        if change == "beyond":
            positions[-1] = size
        elif change == "beyond all":
            positions[:] = np.arange(len(positions)) + (CHUNK - len(positions))
        elif change == "twice":
            positions[len(positions) // 2] = positions[len(positions) // 2 - 1]
        elif change == "back":
            positions[[1, 0]] = positions[[0, 1]]
        else:
            scales[-1] = MAX_SCALE + 1
        bad = Packed(size, good.num_sent, positions, good.codes, scales, good.before)
        assert folded(name, bad) is None, change


def _refused(call: Callable[..., object], arguments: Sequence[object], changes: Sequence[tuple[int, object]]) -> None:
    call(*arguments)
    for place, value in changes:
        changed = list(arguments)
        changed[place] = value
        with pytest.raises((ValueError, TypeError)):
            call(*changed)


@pytest.mark.skipif(native is None, reason="there are no compiled kernels here")
def test_arrays_that_do_not_fit_each_other_are_refused() -> None:
    """Before anything is written: sizes, element types, and what is read-only."""
    f32, i64, u8, u16 = (
        lambda size, dtype=dtype: np.zeros(size, dtype) for dtype in (np.float32, np.int64, np.uint8, np.uint16)
    )
    frozen = i64(40)
    frozen.flags.writeable = False
    _refused(native.select_largest, [f32(4), i64(2)], [(1, i64(5)), (1, i64(0)), (0, np.zeros(4)), (1, frozen[:2])])
    table = TOP_K.level_array, TOP_K.nearest
    changes = [(4, u8(4)), (5, u8(2)), (1, table[0][:-1]), (2, table[1][:-1]), (2, table[1][::-1].copy())]
    _refused(native.quantise, [f32(5), *table, 26, u8(5), u8(1)], changes)
    one = np.array([3], np.int64)
    changes = [(1, 0), (1, CHUNK + 1), (1, 1 << 40), (2, u8(2)), (3, i64(0)), (4, i64(2))]
    _refused(native.encode_positions, [one, 40, u8(1), i64(1), i64(1), u8(5)], changes)
    assert native.encode_positions(one, 40, u8(1), i64(1), i64(1), u8(0)) == -1
    count, form = np.array([5]), np.array([4], np.uint8)
    changes = [(0, np.array([18], np.uint8)), (1, np.array([41])), (1, np.array([-1])), (1, np.array([4]))]
    changes += [(2, np.array([-1])), (2, np.array([4])), (3, u8(2)), (4, 4), (4, CHUNK + 1), (5, u16(4)), (5, u16(6))]
    _refused(native.decode_positions, [form, count, np.array([3]), u8(3), 40, u16(5)], changes)
    levels = TOP_K.level_array
    good = [np.array([5]), 40, np.arange(5, dtype=np.uint16), u8(3), u8(1), levels, 1, [i64(40)], [i64(40)]]
    changes = [(0, np.array([4])), (0, np.array([41])), (0, np.array([0])), (1, 39), (1, CHUNK + 1)]
    changes += [(2, u16(4)), (3, u8(2)), (4, u8(2))]
    changes += [(5, levels * 2), (5, levels[1:]), (6, 1 << 32), (7, []), (7, [i64(39)]), (8, [i64(41)]), (8, [frozen])]
    changes += [(7, [i64(40)] * 2), (8, [np.zeros(40)])]
    _refused(native.fold, good, changes)


def test_quanta_are_small() -> None:
    codes = np.arange(16, dtype=np.uint8)
    largest = quanta(codes, np.array([MAX_SCALE], np.uint8), TOP_K.level_array)
    assert np.abs(largest).max() == 127 * 15 << 16
