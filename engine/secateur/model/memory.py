"""How this process allocates memory for CPU tensors.

By default glibc gives every large block back to the kernel when it is freed, so each activation
costs a page fault per 4 KiB again: on virtual machines that is slower than the arithmetic (the KL
of 4096 tokens: 1.16 s, with kept pages 0.55 s).
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MAX_THRESHOLD = 32 << 20  # glibc's own limit on 64-bit machines


def set_malloc_trim_threshold() -> bool:
    """Keep freed blocks up to 32 MiB in the process; False where the C library has no such setting."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(
        libc.mallopt(_M_MMAP_THRESHOLD, _MAX_THRESHOLD) and libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    )
