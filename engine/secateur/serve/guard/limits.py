"""How often, and how many at once: per caller, and over all."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from google.rpc import code_pb2

from secateur.config.serve import LimitOptions
from secateur.serve.failures import RpcError
from secateur.serve.guard.access import HEALTH
from secateur.serve.guard.call import CallContext

BUSY_RETRY_SECONDS = 1.0
# Callers without a name are told apart by their address; no more of them than this are remembered.
MAX_TRACKED_CALLERS = 10_000


@dataclass
class TokenBucket:
    """A token bucket: holds ``burst`` tokens at most, gains ``rate`` a second, a call takes one."""

    rate: float
    burst: float
    tokens: float
    at: float

    def take(self, now: float) -> float:
        """Take a token and return 0, or return the seconds until there will be one."""
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / self.rate


class RateLimiter:
    """A stage that refuses what is too much, saying when to come back. Health checks are never too much."""

    def __init__(self, options: LimitOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._clock = clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._running: Counter[str] = Counter()

    @contextmanager
    def __call__(self, call: CallContext) -> Iterator[None]:
        """Count the call in and out, or raise `RpcError`."""
        if call.service == HEALTH:
            yield
            return
        key = call.principal
        self._check_rate(key)
        self._check_running(key)
        self._running[key] += 1
        try:
            yield
        finally:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]

    def _check_rate(self, key: str) -> None:
        rate, burst = self._options.rate, self._options.bucket
        if rate is None:
            return
        now = self._clock()
        bucket = self._buckets.pop(key, None) or TokenBucket(rate, burst, burst, now)
        self._buckets[key] = bucket
        if len(self._buckets) > MAX_TRACKED_CALLERS:
            self._buckets.popitem(last=False)
        if wait := bucket.take(now):
            raise _exhausted("RATE_LIMITED", f"more than {rate:g} calls a second", key, wait)

    def _check_running(self, key: str) -> None:
        options = self._options
        if options.calls_per_caller is not None and self._running[key] >= options.calls_per_caller:
            message = f"{options.calls_per_caller} calls at once are the most for one caller"
            raise _exhausted("TOO_MANY_CALLS", message, key, BUSY_RETRY_SECONDS)
        if options.calls is not None and self._running.total() >= options.calls:
            message = f"{options.calls} calls at once are the most for this server"
            raise _exhausted("SERVER_BUSY", message, key, BUSY_RETRY_SECONDS)


def _exhausted(reason: str, message: str, key: str, wait: float) -> RpcError:
    return RpcError(
        code_pb2.RESOURCE_EXHAUSTED, reason, message, metadata={"caller": key}, retry_seconds=max(wait, 1e-3)
    )
