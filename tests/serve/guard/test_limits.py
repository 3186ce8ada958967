"""Too often, and too many at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from secateur.config.serve import LimitOptions
from secateur.errors import BadInput
from secateur.serve.failures import RpcError
from secateur.serve.guard import limits
from secateur.serve.guard.access import AccessControl
from secateur.serve.guard.call import CallContext
from secateur.serve.guard.callers import Caller, Quota, Scope, format_caller_entry, generate_token
from secateur.serve.guard.limits import RateLimiter
from tests.serve.guard.conftest import Running, failure


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def passes(stage: RateLimiter, call: CallContext) -> float | None:
    """Return None if the call passes, else the seconds after which to come back."""
    try:
        with stage(call):
            return None
    except RpcError as refused:
        return refused.retry_seconds


async def test_rate_per_caller(running: Running, tmp_path: Path) -> None:
    file = tmp_path / "callers.toml"
    tokens = {name: generate_token() for name in ("one", "two")}
    file.write_text(
        "".join(format_caller_entry(name, [Scope.INFER], token) for name, token in tokens.items())
    )
    options = LimitOptions(rate=0.5, burst=2)
    async with running(checks=[AccessControl(file), RateLimiter(options)]) as calls:
        one, two = ({"metadata": (("authorization", f"Bearer {tokens[name]}"),)} for name in ("one", "two"))
        await calls.say(**one)
        await calls.say(**one)
        refused = await failure(calls.say(**one))
        assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert refused.details["ErrorInfo"].metadata["caller"] == "one"
        assert 1 < refused.details["RetryInfo"].retry_delay.ToMilliseconds() / 1000 <= 2
        await calls.say(**two)
        # Whoever is not known costs known callers nothing.
        assert (await failure(calls.say())).reason == "TOKEN_MISSING"


def test_a_bucket_fills_again() -> None:
    clock = Clock()
    stage = RateLimiter(LimitOptions(rate=2, burst=3), clock)
    call = CallContext("/s/m", "id", peer="ipv4:10.0.0.1:5")
    assert [passes(stage, call) for _ in range(4)] == [None, None, None, pytest.approx(0.5)]
    clock.now = 0.25
    assert passes(stage, call) == pytest.approx(0.25)
    clock.now = 0.5
    assert [passes(stage, call) for _ in range(2)] == [None, pytest.approx(0.5)]
    clock.now = 100
    assert [passes(stage, call) for _ in range(4)] == [None, None, None, pytest.approx(0.5)]


def test_quotas_of_a_caller() -> None:
    clock = Clock()
    stage = RateLimiter(LimitOptions(), clock)

    def call(quota: Quota) -> CallContext:
        return CallContext("/s/m", "id", caller=Caller("one", frozenset({Scope.INFER}), quota=quota))

    # A minute's worth at once, and then as it comes in again.
    assert [passes(stage, call(Quota(requests_per_minute=2))) for _ in range(3)] == [None, None, 30]
    clock.now = 30
    assert passes(stage, call(Quota(requests_per_minute=2))) is None
    # A new quota counts from the next call on; what was used up stays so.
    assert passes(stage, call(Quota(requests_per_minute=60))) == pytest.approx(1)
    assert passes(stage, call(Quota())) is None

    with stage(one := call(Quota(tokens_per_minute=60))):
        one.spend(50)
        one.spend(30)  # more than there are: who has begun may end
        with pytest.raises(RpcError, match="60 tokens a minute are the quota of one") as refused:
            one.admit()  # but not begin again, in a stream
    assert (refused.value.reason, refused.value.retry_seconds) == ("TOKEN_QUOTA", pytest.approx(21))
    assert passes(stage, call(Quota(tokens_per_minute=60))) == pytest.approx(21)
    clock.now += 21
    assert passes(stage, call(Quota(tokens_per_minute=60))) is None

    with stage(call(Quota(calls=1))):
        assert passes(stage, call(Quota(calls=1))) == 1
        assert passes(stage, call(Quota())) is None


def test_nameless_callers_are_told_apart_by_address(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = RateLimiter(LimitOptions(rate=1, burst=1), Clock())
    assert passes(stage, CallContext("/s/m", "id", peer="ipv4:10.0.0.1:5")) is None
    assert passes(stage, CallContext("/s/m", "id", peer="ipv4:10.0.0.1:6")) is not None
    assert passes(stage, CallContext("/s/m", "id", peer="ipv6:[::1]:6")) is None
    # Memory has an end: the one not seen for longest is forgotten.
    monkeypatch.setattr(limits, "MAX_TRACKED_CALLERS", 2)
    assert passes(stage, CallContext("/s/m", "id", peer="ipv4:10.0.0.3:6")) is None
    assert passes(stage, CallContext("/s/m", "id", peer="ipv4:10.0.0.1:6")) is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (LimitOptions(calls_per_caller=2), "TOO_MANY_CALLS"),
        (LimitOptions(calls=2), "SERVER_BUSY"),
    ],
)
async def test_calls_at_once(running: Running, options: LimitOptions, reason: str) -> None:
    async with running(checks=[RateLimiter(options)]) as calls:
        waiting = [calls.say("wait"), calls.count(0)]
        await asyncio.sleep(0.1)
        refused = await failure(calls.say())
        assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
        assert refused.details["RetryInfo"].retry_delay.seconds == 1
        stub = health_pb2_grpc.HealthStub(calls.channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)).status == 1
        for call in waiting:
            call.cancel()
        await asyncio.sleep(0.1)
        assert (await calls.say()).value == "hello"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"rate": 0}, "rate_limit: got 0: at least 0.001"),
        ({"burst": 3}, "rate_burst: got 3: means nothing without `rate_limit`"),
        ({"rate": 1, "burst": 0.5}, "rate_burst: got 0.5: at least 1"),
        ({"calls": 0}, "max_calls: got 0: at least 1"),
        ({"calls_per_caller": 0}, "max_calls_per_caller: got 0: at least 1"),
        ({"message_bytes": 2**31}, "max_message: got 2147483648: at least 1024, at most"),
    ],
)
def test_what_cannot_be_meant(options: dict, complaint: str) -> None:
    with pytest.raises(BadInput) as caught:
        LimitOptions(**options)
    assert complaint in str(caught.value)


def test_burst_is_two_seconds_worth() -> None:
    assert LimitOptions(rate=5).bucket == 10
    assert LimitOptions(rate=0.1).bucket == 1
