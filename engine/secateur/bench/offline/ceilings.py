"""What this machine can do at all: bytes read and products computed per second, measured now."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

READ_BYTES = 512 * 2**20  # far more than any cache holds
ROWS, INNER, COLUMNS = 1024, 1024, 4096
REPEATS = 3


def memory_bandwidth() -> float:
    """Bytes read per second by the fastest of three ways to read a large array."""
    best = 0.0
    for way in _ways():
        seconds = min(_seconds(way) for _ in range(REPEATS))
        best = max(best, READ_BYTES / seconds)
    return best


def matmul_rate(dtype: str) -> float:
    """Floating-point operations per second of a large matrix product."""
    left, right = _factors(dtype)
    seconds = min(_seconds(lambda: left @ right) for _ in range(REPEATS))
    return 2 * ROWS * INNER * COLUMNS / seconds


@cache
def _ways() -> tuple[Callable[[], Any], ...]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    numbers = torch.ones(READ_BYTES // 4, device=device)
    first, second = numbers.chunk(2)
    return (numbers.sum, lambda: torch.dot(first, second), lambda: numbers.view(torch.int32).max())


@cache
def _factors(dtype: str) -> tuple[Any, Any]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = getattr(torch, dtype)
    return torch.randn(ROWS, INNER, device=device).to(kind), torch.randn(INNER, COLUMNS, device=device).to(
        kind
    )


def _seconds(work: Callable[[], Any]) -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
