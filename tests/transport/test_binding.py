"""The one function of iroh's binding that is replaced."""

from __future__ import annotations

import ctypes
import os
import sys
import types
import warnings

import pytest
from iroh import iroh_ffi

from spikemesh.transport import binding

MEGABYTE = 1 << 20
FEW_LINES = 200


def slow_write(self, value):
    """``_UniffiRustBufferBuilder.write`` as iroh 1.2 generates it."""
    with self._reserve(len(value)):
        for i, byte in enumerate(value):
            self.rbuf.data[self.rbuf.len + i] = byte


def lower(data):
    """What every send does first: hand the bytes to Rust."""
    iroh_ffi._UniffiFfiConverterBytes.lower(data).free()


def num_lines(work, *arguments):
    """Lines of Python that run: what makes the difference between memory speed and a few megabytes a second."""
    lines = 0

    def trace(_frame, event, _argument):
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work(*arguments)
    finally:
        sys.settrace(before)
    return lines


def test_eight_megabytes_go_out_in_a_few_moves(monkeypatch):
    assert binding.speed_up_writes()
    data = os.urandom(8 * MEGABYTE)
    assert num_lines(lower, data) < FEW_LINES
    monkeypatch.setattr(iroh_ffi._UniffiRustBufferBuilder, "write", slow_write)
    assert num_lines(lower, data[:10_000]) > 10_000


def test_reading_needs_no_help():
    data = os.urandom(8 * MEGABYTE)
    buffer = iroh_ffi._UniffiFfiConverterBytes.lower(data)
    lifted = []
    assert num_lines(lambda: lifted.append(iroh_ffi._UniffiFfiConverterBytes.lift(buffer))) < FEW_LINES
    assert lifted == [data]


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
