"""What suits a processor: the dtype to compute in, and how memory for tensors is allocated."""

from __future__ import annotations

import ctypes
import platform

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MAX_THRESHOLD = 32 << 20  # glibc's own limit on 64-bit machines


def fastest_dtype(device: torch.device | None = None) -> torch.dtype:
    """bf16 where the device multiplies it in hardware (on a CPU 5 times as fast as fp32), else fp32.

    Args:
        device: None for the CPU.
    """
    if device is not None and device.type == "cuda":
        in_hardware = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        in_hardware = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if in_hardware else torch.float32


def named_dtype(name: str, *, auto: torch.dtype) -> torch.dtype:
    """The dtype that an option names, as torch does; `auto` for ``auto``."""
    return auto if name == "auto" else getattr(torch, name)


def set_malloc_trim_threshold() -> bool:
    """Keep freed blocks up to 32 MiB in the process; False where the C library has no such setting.

    By default glibc gives every large block back to the kernel when it is freed, so each activation
    costs a page fault per 4 KiB again: on virtual machines that is slower than the arithmetic (the KL
    of 4096 tokens: 1.16 s, with kept pages 0.55 s).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(
        libc.mallopt(_M_MMAP_THRESHOLD, _MAX_THRESHOLD) and libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    )
