"""iroh's generated Python binding: what it costs to hand it bytes, and what it raises.

The generated ``_UniffiRustBufferBuilder.write`` copies byte by byte in Python. ``write_in_one_move`` takes its place
after the module was seen to be the one this was written for, and after the two were seen to write the same bytes.
Nothing else of the binding is touched. Reading is one slice in the generated code and needs no help.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

from iroh import iroh_ffi
from iroh.iroh_ffi import InternalError, IrohError

FOREIGN_ERRORS = (IrohError, InternalError)
"""Everything the binding raises: caught where it is called, never seen outside this room."""

Write = Callable[[Any, Any], None]

_WRITE_NAMES = {"_reserve", "len", "enumerate", "rbuf", "data"}
_WRITE_VARIABLES = ("self", "value", "i", "byte")
_PROBE = bytes(range(256)) * 5


def write_in_one_move(self: Any, value: Any) -> None:
    """``_UniffiRustBufferBuilder.write`` with one memory move in place of the loop."""
    data = value if isinstance(value, bytes) else bytes(value)
    with self._reserve(len(data)):
        start = ctypes.cast(self.rbuf.data, ctypes.c_void_p).value
        if start is None:
            raise MemoryError(f"iroh gave no buffer for {len(data)} bytes")
        ctypes.memmove(start + self.rbuf.len, data, len(data))


def _written(module: Any, write: Write) -> bytes:
    """What ``write`` leaves in a fresh buffer, with bytes before and after."""
    builder = module._UniffiRustBufferBuilder()
    try:
        for part in (b"ab", _PROBE, b"", memoryview(_PROBE)[3:], b"yz"):
            write(builder, part)
        return bytes(builder.rbuf.data[: builder.rbuf.len])
    finally:
        builder.discard()


def refusal(module: ModuleType) -> str | None:
    """Why this module's write must not be replaced, or None when it is the one this was written for."""
    builder = getattr(module, "_UniffiRustBufferBuilder", None)
    buffer = getattr(module, "_UniffiRustBuffer", None)
    code = getattr(getattr(builder, "write", None), "__code__", None)
    if builder is None or buffer is None or code is None or not hasattr(builder, "_reserve"):
        return "its buffer classes are gone"
    fields = [("capacity", ctypes.c_uint64), ("len", ctypes.c_uint64), ("data", ctypes.POINTER(ctypes.c_char))]
    if getattr(buffer, "_fields_", None) != fields:
        return "the fields of its buffer changed"
    if set(code.co_names) != _WRITE_NAMES or code.co_varnames != _WRITE_VARIABLES:
        return "its write is no longer a loop over bytes"
    if _written(module, builder.write) != _written(module, write_in_one_move):
        return "the replacement does not write the same bytes"
    return None


def speed_up_writes(module: Any = iroh_ffi) -> bool:
    """Replace the slow write of this module. False, after one warning, when the module is not the known one."""
    if getattr(getattr(module, "_UniffiRustBufferBuilder", None), "write", None) is write_in_one_move:
        return True
    reason = refusal(module)
    if reason is None:
        module._UniffiRustBufferBuilder.write = write_in_one_move
        return True
    warnings.warn(
        f"sending over iroh stays slow: spikemesh does not know this version's binding, {reason}; install iroh 1.2",
        RuntimeWarning,
        stacklevel=2,
    )
    return False
