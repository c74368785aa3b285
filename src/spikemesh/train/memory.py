"""The C library's allocator, told what training does: the same large tensors again in every step."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER_TRIM = (1 << 31) - 1
_LARGEST_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Keep freed tensors' memory in this process; False where the C library has no such setting.

    Otherwise glibc returns every tensor above 32 MB to the system when it is freed, and the next step pays for it page
    by page, which can nearly double its time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES) and mallopt(_TRIM_THRESHOLD, _NEVER_TRIM))
