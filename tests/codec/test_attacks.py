"""Bytes from outside: everything in `attacks/`, every cut, every flipped bit, and noise.

The only answers are the value whose one encoding the bytes are, and `InvalidData`.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.codec.attacks import deltas, genesis, messages, records
from tests.codec.examples import CHUNK, CONTRIBUTION, GENESIS, HELLO, KEY, RETRACTION, RUN, SYNC, random_delta
from tests.kernels.implementations import ALL, using

from spikemesh.codec import (
    decode_delta,
    decode_genesis,
    decode_message,
    decode_record,
    decode_ticket,
    encode_delta,
    encode_genesis,
    encode_message,
    encode_ticket,
    read_metadata,
    read_tensor_file,
    unpack_wires,
    write_tensors,
)
from spikemesh.codec.records import DOMAIN
from spikemesh.errors import InvalidData, TicketError


def read_delta(data: bytes) -> bytes:
    return encode_delta(decode_delta(data, num_coordinates=deltas.NUM_COORDINATES))


def read_large_delta(data: bytes) -> bytes:
    return encode_delta(decode_delta(data, num_coordinates=CHUNK))


def read_record(data: bytes) -> bytes:
    return decode_record(data, run_id=RUN).wire


def read_genesis(data: bytes) -> bytes:
    return encode_genesis(decode_genesis(data))


def read_message(data: bytes) -> bytes:
    encode_message(decode_message(data))
    return data  # messages need not be canonical: nothing is named by their hash


def read_ticket(data: bytes) -> bytes:
    try:
        run_id, peer, buckets = decode_ticket(data.decode("latin-1"))
    except TicketError as error:
        raise InvalidData(str(error)) from error
    compact = "".join(data.decode("latin-1").split()).lower()  # the only liberty a reader has
    return data if encode_ticket(run_id, peer, buckets) == compact else b"another ticket"


def read_file(data: bytes) -> bytes:
    write_tensors(read_tensor_file(data), read_metadata(data))
    return data  # any safetensors file is read, ours or not


def read_wires(data: bytes) -> bytes:
    return b"".join(len(wire).to_bytes(2, "little") + wire for wire in unpack_wires(data))


Reader = Callable[[bytes], bytes]

FORMATS: dict[str, tuple[Reader, bytes]] = {
    "delta": (read_delta, deltas.GOOD),
    "contribution": (read_record, CONTRIBUTION.wire),
    "retraction": (read_record, RETRACTION.wire),
    "genesis": (read_genesis, encode_genesis(GENESIS)),
    "hello": (read_message, encode_message(HELLO)),
    "sync": (read_message, encode_message(SYNC)),
    "ticket": (read_ticket, encode_ticket(RUN, HELLO.address).encode()),
    "ticket with a bucket": (read_ticket, encode_ticket(RUN, HELLO.address, ("s3://name/folder",)).encode()),
    "file": (read_file, write_tensors({"a": np.arange(3, dtype=np.float32), "b": np.array([True, False])}, {"c": "d"})),
}
FORMAT_NAMES = list(FORMATS)


def survives(read: Reader, data: bytes) -> bool:
    """True if `data` was read as the value that it is the encoding of. Any error but `InvalidData` is a failure."""
    try:
        assert read(data) == data
    except InvalidData as error:
        assert 0 < len(str(error)) < 2000
        return False
    return True


ATTACKS = [
    pytest.param(read, data, id=f"{what}: {name}")
    for what, read, found in (
        ("delta", read_delta, deltas.attacks()),
        ("large delta", read_large_delta, deltas.large_attacks()),
        ("record", read_record, records.attacks()),
        ("genesis", read_genesis, genesis.attacks()),
        ("message", read_message, messages.attacks()),
    )
    for name, data in found
]


@pytest.mark.parametrize(("read", "data"), ATTACKS)
def test_attack_is_refused(read: Reader, data: bytes) -> None:
    assert not survives(read, data)


def _reasons(data: bytes, num_coordinates: int) -> set[str]:
    """What each implementation of the kernels says of a delta."""
    reasons = set()
    for name in ALL:
        with using(name):
            try:
                reasons.add(repr(encode_delta(decode_delta(data, num_coordinates=num_coordinates))))
            except InvalidData as error:
                reasons.add(str(error))
    return reasons


def test_all_implementations_refuse_a_delta_for_the_same_reason() -> None:
    for name, data in deltas.attacks():
        assert len(_reasons(data, deltas.NUM_COORDINATES)) == 1, name
    for name, data in deltas.large_attacks():
        assert len(_reasons(data, CHUNK)) == 1, name


@pytest.mark.parametrize("density", [0.0, 1 / 64, 0.25, 0.5, 1.0])
def test_all_implementations_judge_a_mutated_delta_the_same(density: float) -> None:
    rng = np.random.default_rng(9)
    num_coordinates = CHUNK + 3000
    good = encode_delta(random_delta(rng, num_coordinates, density))
    for _ in range(20):
        data = bytearray(good)
        for place in rng.integers(8 * deltas.BODY, 8 * len(data), rng.integers(1, 3)).tolist():
            data[place // 8] ^= 1 << place % 8
        assert len(_reasons(bytes(data), num_coordinates)) == 1


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_the_good_one_is_read(name: str) -> None:
    read, good = FORMATS[name]
    assert survives(read, good)


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_no_cut_is_read(name: str) -> None:
    read, good = FORMATS[name]
    for length in range(len(good)):
        assert not survives(read, good[:length])


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_flipped_bits(name: str) -> None:
    """One bit anywhere: signatures and checksums see it, and elsewhere it is another value with its own encoding."""
    read, good = FORMATS[name]
    read_as_another = False
    for position in range(8 * len(good)):
        flipped = bytearray(good)
        flipped[position // 8] ^= 1 << position % 8
        read_as_another |= survives(read, bytes(flipped)) and bytes(flipped).lower() != good.lower()
    assert read_as_another == (name not in ("contribution", "retraction", "ticket", "ticket with a bucket"))


def test_a_flipped_bit_in_a_delta_is_never_the_same_value() -> None:
    good = decode_delta(deltas.GOOD, num_coordinates=deltas.NUM_COORDINATES)
    for position in range(8 * len(deltas.GOOD)):
        flipped = bytearray(deltas.GOOD)
        flipped[position // 8] ^= 1 << position % 8
        try:
            assert decode_delta(bytes(flipped), num_coordinates=deltas.NUM_COORDINATES) != good
        except InvalidData:
            continue


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_mutations(name: str) -> None:
    read, good = FORMATS[name]
    rng = random.Random(name)
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            start = rng.randrange(len(data) + 1)
            data[start : start + rng.choice((0, 0, 1, 4))] = rng.randbytes(rng.choice((0, 1, 1, 4)))
        survives(read, bytes(data))


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.binary(max_size=300))
def test_noise(data: bytes) -> None:
    for read in (read_delta, read_record, read_genesis, read_message, read_file, read_wires):
        survives(read, data)
    if len(data) >= 8:
        survives(read_delta, deltas.GOOD[: deltas.BODY] + data)
        survives(read_record, KEY.sign(DOMAIN + data) + data)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.text(max_size=100))
def test_noise_is_no_ticket(text: str) -> None:
    for ticket in (text, "spikemesh1" + text):
        with pytest.raises(TicketError):
            decode_ticket(ticket)


def test_memory_is_bounded_by_the_bytes() -> None:
    """No attack takes more than a constant times its own size and the run's."""
    for param in ATTACKS:
        read, data = param.values
        tracemalloc.start()
        survives(read, data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3_000_000 + 30 * len(data), param.id


def test_decoding_a_large_delta_takes_little_memory() -> None:
    num_coordinates = 16 * CHUNK
    data = encode_delta(random_delta(np.random.default_rng(0), num_coordinates, 0.25))
    tracemalloc.start()
    decode_delta(data, num_coordinates=num_coordinates)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * num_coordinates


def test_sizes_are_judged_before_what_they_are_of() -> None:
    attacks = {**dict(deltas.attacks()), **dict(deltas.large_attacks())}
    for name, read, reason in (
        ("a megabyte behind it", read_delta, "has at most"),
        ("65536 sent, with their codes", read_delta, "has at most"),
        ("41 sent, with their codes", read_delta, "more sent values than it has coordinates"),
        ("16777215 sent", read_delta, "more sent values than it has coordinates"),
        ("header of 4294967296 bytes", read_delta, "are allowed"),
        ("low parts longer than the bytes", read_large_delta, "Golomb-Rice gaps"),
    ):
        with pytest.raises(InvalidData, match=reason):
            read(attacks[name])


def test_a_small_delta_in_a_large_run_is_refused_before_anything_is_made() -> None:
    tracemalloc.start()
    with pytest.raises(InvalidData, match="chunks"):
        decode_delta(deltas.GOOD, num_coordinates=1 << 32)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
