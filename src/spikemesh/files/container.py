"""The container of everything with tensors in it: a safetensors file, its header written in one fixed way.

    u64 length of the header | JSON header, padded with spaces to 8 bytes | the tensors' bytes, nothing between

Any safetensors reader reads these files. The library writes metadata in an order that changes from run to run, which
is why the few lines that write them are here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence

HEADER_LENGTH = struct.Struct("<Q")
ALIGNMENT = 8

Entry = tuple[str, str, tuple[int, ...], int]
"""Name, safetensors dtype, shape, size in bytes."""


def pack_header(
    entries: Sequence[Entry], metadata: Mapping[str, str] | None = None, *, alignment: int = ALIGNMENT
) -> bytes:
    """Everything before the tensors' bytes, which start at a multiple of `alignment` (a multiple of 8).

    `entries` lie one after the other in the order given.
    """
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, dtype, shape, num_bytes in entries:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + num_bytes]}
        end += num_bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(HEADER_LENGTH.size + len(text)) % alignment)
    return HEADER_LENGTH.pack(len(text)) + text
