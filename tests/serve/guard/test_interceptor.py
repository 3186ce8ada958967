"""Every call has an id, ends with a rich status, and is cancelled as it would be without the guard."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int32Value

from secateur.config.serve import KeepaliveOptions, LimitOptions
from secateur.serve.guard.limits import RateLimiter
from tests.serve.guard.conftest import SERVICE, Calls, Running, failure


@pytest.fixture
async def calls(running: Running) -> AsyncIterator[Calls]:
    async with running() as client:
        yield client


async def test_all_four_kinds_of_method(calls: Calls) -> None:
    assert (await calls.say("hello")).value == "hello"
    assert [number.value async for number in calls.count(3)] == [0, 1, 2]
    assert [number.value async for number in calls.count(3, method="Write")] == [0, 1, 2]
    assert (await calls.total([1, 2, 3])).value == 6
    assert [number.value async for number in calls.double([1, 2])] == [2, 4]


async def test_request_ids(calls: Calls) -> None:
    call = calls.say(metadata=(("x-request-id", "abc-1"),))
    assert dict(await call.trailing_metadata())["x-request-id"] == "abc-1"
    assert calls.handlers.seen[-1].request_id == "abc-1"
    # One that could not stand in a log is replaced.
    call = calls.say(metadata=(("x-request-id", 'a"b c'),))
    assert len(dict(await call.trailing_metadata())["x-request-id"]) == 32
    stream = calls.count(1)
    assert [number.value async for number in stream] == [0]
    assert dict(await stream.trailing_metadata())["x-request-id"]
    refused = await failure(calls.say("refuse", metadata=(("x-request-id", "abc-2"),)))
    assert refused.trailers["x-request-id"] == "abc-2"


async def test_handlers_keep_their_own_trailers(calls: Calls) -> None:
    trailers = dict(await calls.say("trailers").trailing_metadata())
    assert trailers["other"] == "1" and trailers["x-request-id"]


async def test_user_mistakes_are_answered_and_not_logged(
    calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    refused = await failure(calls.say("refuse"))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.reason == "INVALID_FIELD"
    assert refused.details["BadRequest"].field_violations[0].field == "value"
    assert (await failure(calls.say("group"))).reason == "INVALID_FIELD"
    refused = await failure(calls.say("bad input"))
    assert (refused.code, refused.message) == (grpc.StatusCode.INVALID_ARGUMENT, "keep: got 2: 0 to 1")
    refused = await failure(calls.say("abort"))
    assert (refused.code, refused.message) == (grpc.StatusCode.NOT_FOUND, "not here")
    assert refused.reason == "NOT_FOUND"
    for method in ("Count", "Write"):
        refused = await failure(calls.count(5, method=method))
        assert refused.code is grpc.StatusCode.UNAVAILABLE
        assert refused.details["RetryInfo"].retry_delay.seconds == 2
    refused = await failure(calls.double([1, -1]))
    assert refused.details["BadRequest"].field_violations[0].description == "got -1, at least 0"
    assert (await calls.say()).value == "hello"
    assert not caplog.records


@pytest.mark.parametrize("word", ["long" * 50_000, "long" + "ü€" * 50_000])
async def test_long_stories_are_cut_to_fit_a_trailer(calls: Calls, word: str) -> None:
    refused = await failure(calls.say(word))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.message.startswith("long") and " … " in refused.message
    assert 1 <= len(refused.details["BadRequest"].field_violations) < 50


async def test_what_is_no_message_is_the_clients_mistake(
    calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    # A field of length 200 that is not there; a text that is not UTF-8.
    for garbage in (b"\x0a\xc8\x01", b"\x0a\x02\xff\xfe"):
        refused = await failure(calls.raw(garbage))
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    refused = await failure(calls.raw(b"\x08", method="Total"))
    assert refused.reason == "MALFORMED_MESSAGE"
    assert not caplog.records


async def test_unknown_methods(calls: Calls, caplog: pytest.LogCaptureFixture) -> None:
    for service in ("secateur.v1.InferenceService", "no.such.Service"):
        refused = await failure(calls.say(service=service, method="Nothing"))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN")
    assert not caplog.records


async def test_a_bug_is_logged_once_and_keeps_its_secrets(
    calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    failed = await failure(calls.say("bug", metadata=(("x-request-id", "abc-3"),)))
    assert (failed.code, failed.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in failed.message and "KeyError" not in failed.message
    assert failed.details["ErrorInfo"].metadata["request_id"] == "abc-3"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info and record.exc_info[0] is KeyError


async def test_clients_are_asked_to_connect_anew(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    connections = KeepaliveOptions(max_age=1, max_age_grace=5)
    async with running(connections=connections) as calls:
        long = calls.count(0)
        await calls.handlers.started.wait()
        peers = set()
        for _ in range(25):
            await calls.say()
            peers.add(calls.handlers.seen[-1].peer)
            await asyncio.sleep(0.1)
        assert len(peers) >= 2  # and no call failed
        assert not long.done()
        long.cancel()
    assert not caplog.records


CLIENT = """
import sys, grpc
from google.protobuf.wrappers_pb2 import Int32Value
with grpc.insecure_channel(sys.argv[1]) as channel:
    count = channel.unary_stream("/secateur.v1.InferenceService/Count", Int32Value.SerializeToString)
    list(count(Int32Value(value=0)))
"""


async def test_a_client_that_vanished_is_noticed(running: Running) -> None:
    connections = KeepaliveOptions(keepalive=1, keepalive_timeout=1)
    async with running(connections=connections) as calls:
        client = await asyncio.create_subprocess_exec(sys.executable, "-c", CLIENT, calls.address)
        try:
            await asyncio.wait_for(calls.handlers.started.wait(), 20)
            client.send_signal(signal.SIGSTOP)  # its sockets stay open, but nobody answers
            await asyncio.wait_for(calls.handlers.cancelled.wait(), 10)
        finally:
            client.kill()
            await client.wait()


async def test_a_call_without_a_request(calls: Calls) -> None:
    call = calls.channel.stream_unary(
        "/secateur.v1.InferenceService/Count", Int32Value.SerializeToString, Int32Value.FromString
    )
    refused = await failure(call([], timeout=10))
    assert refused.reason == "REQUEST_MISSING"


async def test_messages_too_large(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    async with running(limits=LimitOptions(message_bytes=2048)) as calls:
        for word in ("x" * 3000, "x" * 100_000):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await calls.say(word)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "larger than max" in (caught.value.details() or "")
        assert (await calls.say("x" * 2000)).value == "x" * 2000
    assert not caplog.records


@pytest.mark.parametrize("kind", ["say", "Count", "Write"])
@pytest.mark.parametrize("how", ["cancel", "deadline", "hang up"])
async def test_cancellation_passes_through(
    running: Running, kind: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as calls:
        deadline = 0.3 if how == "deadline" else 10
        if kind == "say":
            call = calls.say("wait", timeout=deadline)
        else:
            call = calls.channel.unary_stream(
                f"/secateur.v1.InferenceService/{kind}",
                Int32Value.SerializeToString,
                Int32Value.FromString,
            )(Int32Value(value=0), timeout=deadline)
        await calls.handlers.started.wait()
        if how == "cancel":
            call.cancel()
        elif how == "hang up":
            await calls.channel.close()
        await asyncio.wait_for(calls.handlers.cancelled.wait(), 2)
    assert not caplog.records


async def test_a_storm_of_early_cancels_leaves_nothing(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as calls:
        for delay in (0, 0, 0.0005, 0.001, 0.002, 0.004) * 20:
            call = calls.say("wait")
            stream = calls.count(0)
            await asyncio.sleep(delay)
            call.cancel()
            stream.cancel()
        assert (await calls.say()).value == "hello"
        await asyncio.sleep(0.3)
        waiting = [task for task in asyncio.all_tasks() if "_guarded" in repr(task.get_coro())]
        assert not waiting
    assert not caplog.records


async def test_stages_wrap_calls_in_order(running: Running) -> None:
    from contextlib import contextmanager

    seen: list[str] = []

    def stage(name: str):  # type: ignore[no-untyped-def]
        @contextmanager
        def around(call):  # type: ignore[no-untyped-def]
            seen.append(f"+{name}")
            try:
                yield
            except BaseException as error:
                seen.append(f"{name}:{type(error).__name__}")
                raise
            finally:
                seen.append(f"-{name}")

        return around

    async with running(observers=[stage("observer")], checks=[stage("check")]) as calls:
        await failure(calls.say("bug"))
    assert seen == ["+observer", "+check", "check:KeyError", "-check", "observer:RpcError", "-observer"]


@pytest.mark.parametrize("method", ["Say", "Count", "Total", "Double"])
async def test_who_says_nothing_loses_its_place(running: Running, method: str) -> None:
    """A call that is opened and never sends its request, whichever kind it is on the server."""
    method = {
        "unary_unary": "Say",
        "unary_stream": "Count",
        "stream_unary": "Total",
        "stream_stream": "Double",
    }
    limits = LimitOptions(calls=1, first_message_seconds=0.2)
    async with running(checks=[RateLimiter(limits)], limits=limits) as calls:
        silent = calls.channel.stream_stream(f"/{SERVICE}/{method}")(timeout=10)
        refused = await failure(silent)
        assert (refused.code, refused.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "REQUEST_LATE")
        assert (await calls.say()).value == "hello"
