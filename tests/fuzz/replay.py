"""Give a target one input, and tell an answer from a failure."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from secateur.errors import SecateurError
from secateur.serve.failures import RpcError
from tests.fuzz.targets import Target

SECONDS = 5
GIGABYTE = 1 << 30
# A bad request is the caller's fault: INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, FAILED_PRECONDITION.
CODES = {3, 5, 7, 9}


class TooSlow(Exception):
    """An input took longer than it may."""


def failure_of(target: Target, data: bytes) -> str | None:
    """Why the target does not answer an input as it should; None if it does."""
    try:
        with _time_limit():
            target.parse(data)
    except RpcError as error:
        return None if int(_code(error)) in CODES else f"code {_code(error)}: {error}"
    except SecateurError as error:
        return f"several lines: {error}" if "\n" in str(error) else None
    except RecursionError as error:
        return f"RecursionError: {error}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {str(error)[:300]}"
    return None


def _code(error: RpcError) -> Any:
    return error.code


def memory_limit() -> int:
    """Bytes of address space that this process has now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def limit_memory(size: int) -> None:
    """Let allocations beyond so many bytes fail."""
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


@contextmanager
def _time_limit() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise TooSlow(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
