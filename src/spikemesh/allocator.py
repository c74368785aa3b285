"""The C library's allocator, told what is done: in training the same large tensors again in every step, in some thread;
in a merge of adapters other ones for every matrix, in bounded memory.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
_NEVER = -1
_LARGEST_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Keep freed tensors' memory in this process; False where the C library has no such setting.

    Call it before any other thread is started and before torch makes a large tensor. Otherwise glibc returns every
    tensor above 32 MB to the system when it is freed, and the next step pays for it page by page, which can nearly
    double its time; and a thread that is given an arena of its own does that above 64 MB whatever it is told
    (docs/decisions/013-one-arena.md). Torch also asks for huge pages then: a neuron's activations lie kilobytes apart,
    and in small pages the processor would look up an address for each.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    # glibc before 2.35 refuses so large a threshold, and takes "never map" in its place.
    kept = mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES) or mallopt(_MMAP_MAX, 0)
    return bool(kept and mallopt(_TRIM_THRESHOLD, _NEVER) and mallopt(_ARENA_MAX, 1))


def return_freed_memory() -> bool:
    """Give freed arrays of more than 128 KiB back at once; False where the C library has no such setting.

    Otherwise glibc raises that limit with every array that is freed, and keeps the memory, in every thread.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 17))
    except (OSError, AttributeError, TypeError):
        return False
