"""What is sent again, how often, and what never is."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2

from secateur.client import AsyncClient, CallFailed, Client, RetryPolicy
from secateur.client.retries import RetryState, is_idempotent
from secateur.serve.failures import FieldViolation, RpcError, invalid_argument
from tests.client.conftest import AWAY, FULL, WORDS, Script

Start = Callable[..., tuple[Script, str]]
FAST = RetryPolicy(initial_seconds=0.02)


def whole(client: Client) -> str:
    return client.complete("m", "x").text


def streamed(client: Client) -> str:
    return "".join(event.text for event in client.generate("m", "x"))


def whole_later(target: str, **options: Any) -> str:
    async def ask() -> str:
        async with AsyncClient(target, **options) as client:
            return (await client.complete("m", "x")).text

    return asyncio.run(ask())


def streamed_later(target: str, **options: Any) -> str:
    async def ask() -> str:
        async with AsyncClient(target, **options) as client:
            return "".join([event.text async for event in client.generate("m", "x")])

    return asyncio.run(ask())


def now(how: Callable[[Client], str]) -> Callable[..., str]:
    def ask(target: str, **options: Any) -> str:
        with Client(target, **options) as client:
            return how(client)

    return ask


WAYS = {
    "unary": now(whole),
    "stream": now(streamed),
    "unary, asynchronous": whole_later,
    "stream, asynchronous": streamed_later,
}
ways = pytest.mark.parametrize("ask", WAYS.values(), ids=WAYS)


@ways
@pytest.mark.parametrize("failure", [AWAY, FULL], ids=["UNAVAILABLE", "RESOURCE_EXHAUSTED with RetryInfo"])
def test_what_passes_is_sent_again(start: Start, ask: Callable[..., str], failure: Any) -> None:
    script, target = start()
    script.failures = [failure, failure]
    assert ask(target, retries=FAST) == "".join(WORDS)
    assert len(script.calls) == 3


@ways
@pytest.mark.parametrize("failure", [AWAY, FULL], ids=["UNAVAILABLE", "RESOURCE_EXHAUSTED with RetryInfo"])
def test_it_is_given_up_after_the_attempts(start: Start, ask: Callable[..., str], failure: Any) -> None:
    script, target = start()
    script.failures = [failure] * 10
    with pytest.raises(CallFailed, match=r"going|too many"):
        ask(target, retries=FAST)
    assert len(script.calls) == FAST.attempts


@ways
@pytest.mark.parametrize(
    "failure",
    [
        dataclasses.replace(FULL, retry_seconds=None),  # as gRPC's own for a message too large
        invalid_argument(FieldViolation("text", "got 0 tokens")),
        dataclasses.replace(AWAY, code=code_pb2.INTERNAL),
    ],
    ids=lambda failure: str(failure.reason),
)
def test_what_does_not_pass_is_not(start: Start, ask: Callable[..., str], failure: Any) -> None:
    script, target = start()
    script.failures = [failure]
    with pytest.raises(CallFailed):
        ask(target, retries=FAST)
    assert len(script.calls) == 1


@ways
def test_retries_can_be_turned_off(start: Start, ask: Callable[..., str]) -> None:
    script, target = start()
    script.failures = [AWAY]
    with pytest.raises(CallFailed, match="going"):
        ask(target, retries=RetryPolicy(attempts=1))
    assert len(script.calls) == 1


@pytest.mark.parametrize("failure", [AWAY, FULL], ids=["UNAVAILABLE", "RESOURCE_EXHAUSTED with RetryInfo"])
@pytest.mark.parametrize("ask", [streamed_later, now(streamed)], ids=["asynchronous", "synchronous"])
def test_never_after_output_was_delivered(start: Start, ask: Callable[..., str], failure: Any) -> None:
    script, target = start()
    script.failures, script.after = [failure], 1
    with pytest.raises(CallFailed):
        ask(target, retries=FAST)
    assert len(script.calls) == 1


def test_the_servers_wish_is_honoured(start: Start) -> None:
    script, target = start()
    script.failures = [dataclasses.replace(FULL, retry_seconds=0.4)]
    with Client(target, retries=FAST) as client:
        client.complete("m", "x")
    (_, first, _), (_, second, _) = script.calls
    assert 0.4 <= second - first < 1.0


def test_waiting_ends_with_the_deadline(start: Start) -> None:
    script, target = start()
    script.failures = [dataclasses.replace(FULL, retry_seconds=30)]
    started = time.monotonic()
    with Client(target, timeout=2) as client, pytest.raises(CallFailed) as failure:
        client.complete("m", "x")
    assert failure.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.value.retry_seconds == 30
    assert time.monotonic() - started < 1


def test_attempts_share_one_deadline(start: Start) -> None:
    script, target = start()
    script.failures = [dataclasses.replace(FULL, retry_seconds=0.5)]
    with Client(target, timeout=5) as client:
        client.complete("m", "x")
    (_, _, first), (_, _, second) = script.calls
    assert 4 < first <= 5.1 and second <= first - 0.49  # gRPC counts milliseconds


def test_backoff_grows_and_is_never_earlier_than_asked() -> None:
    retries = RetryPolicy(attempts=10, initial_seconds=0.1, max_seconds=1.0)
    assert [retries.backoff(n) for n in (1, 2, 3, 4, 5, 6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


@pytest.mark.parametrize(
    ("method", "repeatable"),
    [
        ("secateur.v1.InferenceService.StreamGenerate", True),
        ("secateur.v1.ModelService.GetModel", True),
        ("secateur.v1.ModelService.DeleteModelVersion", False),
        ("secateur.v1.PruneService.CreatePruneJob", True),
        ("secateur.v1.PruneService.DeletePruneJob", False),
        ("elsewhere.Service.Get", False),
    ],
)
def test_only_what_may_run_twice(method: str, repeatable: bool) -> None:
    assert is_idempotent(method) is repeatable
    assert RetryState(FAST, method, 5).seconds_left() > 4


def test_waiting_for_a_server_that_is_not_there_yet(start: Start) -> None:
    _, target = start()
    port = int(target.rpartition(":")[2]) + 1

    async def ask() -> str:
        async with AsyncClient(f"localhost:{port}", timeout=20, wait_for_ready=True) as client:
            answer = asyncio.create_task(client.complete("m", "x"))
            await asyncio.sleep(0.5)
            assert not answer.done()
            start(port=port)
            return (await answer).text

    assert asyncio.run(ask()) == "".join(WORDS)


LOADING = RpcError(code_pb2.UNAVAILABLE, "MODEL_LOADING", "still loading", retry_seconds=0.05)


@ways
def test_waiting_for_a_model_that_is_loading(start: Start, ask: Callable[..., str]) -> None:
    """However often it takes: the deadline alone ends it."""
    script, target = start()
    script.failures = [LOADING] * 30
    assert ask(target, retries=FAST, wait_for_ready=True) == "".join(WORDS)
    assert len(script.calls) == 31


@ways
def test_who_does_not_wait_gives_up_on_a_model_that_is_loading(start: Start, ask: Callable[..., str]) -> None:
    script, target = start()
    script.failures = [LOADING] * 30
    with pytest.raises(CallFailed, match="still loading"):
        ask(target, retries=FAST)
    assert script.failures


def test_the_deadline_ends_the_waiting_for_a_model(start: Start) -> None:
    script, target = start()
    script.failures = [LOADING] * 10_000
    started = time.monotonic()
    with Client(target, 1.0, retries=FAST, wait_for_ready=True) as client, pytest.raises(CallFailed):
        client.complete("m", "x")
    assert time.monotonic() - started < 5


def test_without_a_server_it_fails_fast() -> None:
    started = time.monotonic()
    with Client("localhost:1") as client, pytest.raises(CallFailed, match="no server answers there"):
        client.complete("m", "x")
    assert time.monotonic() - started < 5
