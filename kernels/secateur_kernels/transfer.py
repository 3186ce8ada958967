"""Small tables of numbers from the host to a device that nothing waits for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

# Tables kept by value: 512 bytes of device memory each, as the allocator counts.
KEPT = 4096


class CopyInGraph(RuntimeError):
    """A copy from the host was wanted while a CUDA graph is captured: every replay would read old memory."""


def to_device(numbers: Sequence[object], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a tensor on a device; to a GPU from pinned memory, so that the host goes on at once.

    Raises:
        CopyInGraph: a CUDA graph is being captured.
    """
    on_gpu = device.type == "cuda"
    if on_gpu and torch.cuda.is_current_stream_capturing():
        raise CopyInGraph("numbers cannot be copied from the host while a CUDA graph is captured")
    host = torch.tensor(numbers, dtype=dtype, device="cpu", pin_memory=on_gpu)
    return host.to(device, non_blocking=True)


def kept_on_device(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Int32 numbers on a device, copied once for each value and stream; never write to them.

    Raises:
        CopyInGraph: a CUDA graph is being captured; also where the numbers are there, for the graph would
            outlive them.
    """
    if device.type != "cuda":
        return _kept(numbers, device, 0)
    if torch.cuda.is_current_stream_capturing():
        raise CopyInGraph("numbers kept on a device may be gone when a CUDA graph is replayed")
    # Another stream would not wait for the copy.
    return _kept(numbers, device, torch.cuda.current_stream(device).cuda_stream)


@lru_cache(maxsize=KEPT)
def _kept(numbers: tuple[int, ...], device: torch.device, stream: int) -> Tensor:
    with torch.inference_mode(False):
        return to_device(numbers, torch.int32, device)
