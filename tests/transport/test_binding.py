"""The one function of iroh's binding that is replaced."""

from __future__ import annotations

import ctypes
import os
import time
import types
import warnings

import pytest
from iroh import iroh_ffi

from spikemesh.transport import binding

MEGABYTE = 1 << 20


def slow_write(self, value):
    """``_UniffiRustBufferBuilder.write`` as iroh 1.2 generates it."""
    with self._reserve(len(value)):
        for i, byte in enumerate(value):
            self.rbuf.data[self.rbuf.len + i] = byte


def lower(data):
    """What every send does first: hand the bytes to Rust."""
    iroh_ffi._UniffiFfiConverterBytes.lower(data).free()


def mb_per_s(work, data):
    best = float("inf")
    for _ in range(3):
        start_s = time.perf_counter()
        work(data)
        best = min(best, time.perf_counter() - start_s)
    return len(data) / best / 1e6


def test_eight_megabytes_go_out_at_memory_speed(monkeypatch, record_property):
    assert binding.speed_up_writes()
    data = os.urandom(8 * MEGABYTE)
    ours = mb_per_s(lower, data)
    moved = mb_per_s(lambda d: ctypes.memmove(ctypes.create_string_buffer(len(d)), d, len(d)), data)
    monkeypatch.setattr(iroh_ffi._UniffiRustBufferBuilder, "write", slow_write)
    generated = mb_per_s(lower, data[: MEGABYTE // 2])
    record_property("mb_per_s", f"ours {ours:.0f}, generated {generated:.1f}, one memory move {moved:.0f}")
    assert ours > 20 * generated
    assert ours > moved / 20


def test_reading_needs_no_help():
    data = os.urandom(8 * MEGABYTE)
    buffer = iroh_ffi._UniffiFfiConverterBytes.lower(data)
    start_s = time.perf_counter()
    assert iroh_ffi._UniffiFfiConverterBytes.lift(buffer) == data
    assert len(data) / (time.perf_counter() - start_s) / 1e6 > 100


@pytest.mark.parametrize("part", [b"", b"x", bytes(range(256)) * 100, bytearray(b"abc"), memoryview(b"abcdef")[1:4]])
def test_writes_the_same_bytes(part):
    assert binding._written(iroh_ffi, lambda b, v: slow_write(b, part)) == binding._written(
        iroh_ffi, lambda b, v: binding.write_in_one_move(b, part)
    )


def module_with(write=slow_write, fields=iroh_ffi._UniffiRustBuffer._fields_):
    """A binding of another version."""

    class Buffer(ctypes.Structure):
        _fields_ = fields

    builder = type("Builder", (iroh_ffi._UniffiRustBufferBuilder,), {"write": write})
    return types.SimpleNamespace(_UniffiRustBufferBuilder=builder, _UniffiRustBuffer=Buffer)


def test_the_known_module_is_patched():
    module = module_with()
    assert binding.speed_up_writes(module)
    assert module._UniffiRustBufferBuilder.write is binding.write_in_one_move
    assert binding.speed_up_writes(module)


def upside_down(self, value):
    with self._reserve(len(value)):
        for i, byte in enumerate(value):
            self.rbuf.data[self.rbuf.len + i] = 255 - byte


def in_one_call(self, value):
    self.rbuf.extend(value)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (types.SimpleNamespace(), "its buffer classes are gone"),
        (module_with(write=in_one_call), "no longer a loop"),
        (module_with(write=upside_down), "does not write the same bytes"),
        (module_with(fields=[("len", ctypes.c_uint64), ("data", ctypes.c_void_p)]), "fields of its buffer changed"),
    ],
)
def test_a_changed_module_is_left_alone_with_one_warning(module, reason):
    before = getattr(getattr(module, "_UniffiRustBufferBuilder", None), "write", None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert not binding.speed_up_writes(module)
    assert [reason in str(one.message) for one in caught] == [True]
    assert getattr(getattr(module, "_UniffiRustBufferBuilder", None), "write", None) is before
