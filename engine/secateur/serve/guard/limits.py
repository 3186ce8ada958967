"""How often, and how many at once: per caller, and over all."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from google.rpc import code_pb2

from secateur.config.serve import LimitOptions
from secateur.serve.failures import RpcError
from secateur.serve.guard.access import HEALTH
from secateur.serve.guard.call import CallContext
from secateur.serve.guard.callers import Quota

BUSY_RETRY_SECONDS = 1.0
# Callers without a name are told apart by their address; no more of them than this are remembered.
MAX_TRACKED_CALLERS = 10_000


@dataclass
class TokenBucket:
    """A token bucket: holds ``burst`` tokens at most and gains ``rate`` a second; it may be in debt."""

    rate: float
    burst: float
    tokens: float
    at: float

    def take(self, now: float) -> float:
        """Take a token and return 0, or return the seconds until there will be one."""
        if not (wait := self.wait(now)):
            self.tokens -= 1
        return wait

    def wait(self, now: float) -> float:
        """Return the seconds until there will be a token."""
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        return 0.0 if self.tokens >= 1 else (1 - self.tokens) / self.rate


class Buckets:
    """A bucket for each who has been seen lately."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def of(self, key: str, rate: float, burst: float, now: float) -> TokenBucket:
        """Return the bucket, with this rate and size from now on; a new one is full."""
        bucket = self._buckets.pop(key, None) or TokenBucket(rate, burst, burst, now)
        if (bucket.rate, bucket.burst) != (rate, burst):
            bucket.wait(now)
            bucket.rate, bucket.burst = rate, burst
        self._buckets[key] = bucket
        if len(self._buckets) > MAX_TRACKED_CALLERS:
            self._buckets.popitem(last=False)
        return bucket


class RateLimiter:
    """A stage that refuses what is too much, saying when to come back. Health checks are never too much."""

    def __init__(self, options: LimitOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._clock = clock
        self._buckets, self._requests, self._tokens = Buckets(), Buckets(), Buckets()
        self._running: Counter[str] = Counter()

    @contextmanager
    def __call__(self, call: CallContext) -> Iterator[None]:
        """Count the call in and out, or raise `RpcError`."""
        if call.service == HEALTH:
            yield
            return
        key = call.principal
        self._check_rate(key)
        self._check_running(key, call.caller.quota)
        self._admit(call)
        call.admit, call.spend = partial(self._admit, call), partial(self._spend, call)
        self._running[key] += 1
        try:
            yield
        finally:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]

    def _check_rate(self, key: str) -> None:
        rate = self._options.rate
        if rate is None:
            return
        now = self._clock()
        if wait := self._buckets.of(key, rate, self._options.bucket, now).take(now):
            raise _exhausted("RATE_LIMITED", f"more than {rate:g} calls a second", key, wait)

    def _check_running(self, key: str, quota: Quota) -> None:
        most = quota.calls or self._options.calls_per_caller
        if most is not None and self._running[key] >= most:
            message = f"{most} calls at once are the most for one caller"
            raise _exhausted("TOO_MANY_CALLS", message, key, BUSY_RETRY_SECONDS)
        calls = self._options.calls
        if calls is not None and self._running.total() >= calls:
            message = f"{calls} calls at once are the most for this server"
            raise _exhausted("SERVER_BUSY", message, key, BUSY_RETRY_SECONDS)

    def _admit(self, call: CallContext) -> None:
        """Take a request from the caller's quota, if no tokens are owed."""
        quota, key, now = call.caller.quota, call.principal, self._clock()
        if quota.tokens_per_minute is not None and (wait := self._token_bucket(call, now).wait(now)):
            message = f"{quota.tokens_per_minute} tokens a minute are the quota of {key}"
            raise _exhausted("TOKEN_QUOTA", message, key, wait)
        rate = quota.requests_per_minute
        if rate is not None and (wait := self._requests.of(key, rate / 60, rate, now).take(now)):
            message = f"{rate} requests a minute are the quota of {key}"
            raise _exhausted("REQUEST_QUOTA", message, key, wait)

    def _spend(self, call: CallContext, tokens: int) -> None:
        """Take tokens from the quota; how many an answer has is known too late to refuse it."""
        if call.caller.quota.tokens_per_minute is not None:
            self._token_bucket(call, self._clock()).tokens -= tokens

    def _token_bucket(self, call: CallContext, now: float) -> TokenBucket:
        rate = call.caller.quota.tokens_per_minute
        assert rate is not None
        return self._tokens.of(call.principal, rate / 60, rate, now)


def _exhausted(reason: str, message: str, key: str, wait: float) -> RpcError:
    return RpcError(
        code_pb2.RESOURCE_EXHAUSTED, reason, message, metadata={"caller": key}, retry_seconds=max(wait, 1e-3)
    )
