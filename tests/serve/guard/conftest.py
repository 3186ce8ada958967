"""A real gRPC server over a socket, with small handlers of all four kinds, behind the guard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2_grpc
from grpc_status import rpc_status

from secateur.config.serve import KeepaliveOptions, LimitOptions, TlsOptions
from secateur.errors import BadInput
from secateur.serve.failures import FieldViolation, RpcError, invalid_argument
from secateur.serve.guard.call import current_call
from secateur.serve.guard.channel import bind_server, channel_options
from secateur.serve.guard.interceptor import CallStage, GuardInterceptor

SERVICE = "secateur.v1.InferenceService"
ADMIN_SERVICE = "secateur.v1.PruneService"


class Handlers:
    """What the tests call; remembers how calls ended."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.seen: list[Any] = []

    async def say(self, request: StringValue, context: grpc.aio.ServicerContext) -> StringValue:
        call = current_call()
        assert call is not None
        self.seen.append(call)
        return StringValue(value=await self._answer(request.value, context))

    async def _answer(self, word: str, context: grpc.aio.ServicerContext) -> str:
        if word == "refuse":
            raise invalid_argument(FieldViolation("value", "got refuse, anything else"))
        if word.startswith("long"):
            raise invalid_argument(
                *(FieldViolation(f"{word}[{number}]", f"got {word}") for number in range(50))
            )
        if word == "bug":
            raise KeyError("secret")
        if word == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(self._answer("refuse", context))
        if word == "bad input":
            raise BadInput("keep", "2", "0 to 1")
        if word == "abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "not here")
        if word == "trailers":
            context.set_trailing_metadata((("other", "1"),))
        if word == "wait":
            self.started.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return word

    async def count(self, request: Int32Value, context: grpc.aio.ServicerContext) -> Any:
        try:
            for number in range(request.value):
                if number == 3:
                    raise RpcError(code_pb2.UNAVAILABLE, "TIRED", "three are enough", retry_seconds=2)
                yield Int32Value(value=number)
                self.started.set()
                await asyncio.sleep(0)
            if request.value == 0:
                self.started.set()
                await asyncio.sleep(60)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise

    async def write(self, request: Int32Value, context: grpc.aio.ServicerContext) -> None:
        async for number in self.count(request, context):
            await context.write(number)

    async def total(self, requests: Any, context: grpc.aio.ServicerContext) -> Int32Value:
        return Int32Value(value=sum([request.value async for request in requests]))

    async def double(self, requests: Any, context: grpc.aio.ServicerContext) -> Any:
        async for request in requests:
            if request.value < 0:
                raise invalid_argument(FieldViolation("value", f"got {request.value}, at least 0"))
            yield Int32Value(value=2 * request.value)

    def generic(self, service: str) -> grpc.GenericRpcHandler:
        text = (StringValue.FromString, StringValue.SerializeToString)
        number = (Int32Value.FromString, Int32Value.SerializeToString)
        return grpc.method_handlers_generic_handler(
            service,
            {
                "Say": grpc.unary_unary_rpc_method_handler(self.say, *text),
                "Count": grpc.unary_stream_rpc_method_handler(self.count, *number),
                "Write": grpc.unary_stream_rpc_method_handler(self.write, *number),
                "Total": grpc.stream_unary_rpc_method_handler(self.total, *number),
                "Double": grpc.stream_stream_rpc_method_handler(self.double, *number),
            },
        )


class Calls:
    """A client of `Handlers`."""

    def __init__(self, channel: grpc.aio.Channel, handlers: Handlers, address: str) -> None:
        self.channel, self.handlers, self.address = channel, handlers, address

    def say(self, word: str = "hello", service: str = SERVICE, method: str = "Say", **how: Any) -> Any:
        how.setdefault("timeout", 10)
        call = self.channel.unary_unary(
            f"/{service}/{method}", StringValue.SerializeToString, StringValue.FromString
        )
        return call(StringValue(value=word), **how)

    def count(self, numbers: int, method: str = "Count", **how: Any) -> Any:
        call = self.channel.unary_stream(
            f"/{SERVICE}/{method}", Int32Value.SerializeToString, Int32Value.FromString
        )
        return call(Int32Value(value=numbers), timeout=10, **how)

    def total(self, numbers: Sequence[int]) -> Any:
        call = self.channel.stream_unary(
            f"/{SERVICE}/Total", Int32Value.SerializeToString, Int32Value.FromString
        )
        return call([Int32Value(value=number) for number in numbers], timeout=10)

    def double(self, numbers: Sequence[int]) -> Any:
        call = self.channel.stream_stream(
            f"/{SERVICE}/Double", Int32Value.SerializeToString, Int32Value.FromString
        )
        return call([Int32Value(value=number) for number in numbers], timeout=10)

    def raw(self, message: bytes, method: str = "Say") -> Any:
        return self.channel.unary_unary(f"/{SERVICE}/{method}")(message, timeout=10)


Running = Callable[..., AbstractAsyncContextManager[Calls]]


@pytest.fixture
def running() -> Running:
    """``async with running(checks=[...]) as calls``: the server, and a client of it."""

    @asynccontextmanager
    async def run(
        *,
        checks: Sequence[CallStage] = (),
        observers: Sequence[CallStage] = (),
        limits: LimitOptions = LimitOptions(),  # noqa: B008
        connections: KeepaliveOptions = KeepaliveOptions(),  # noqa: B008
        tls: TlsOptions | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> AsyncIterator[Calls]:
        options = channel_options(limits, connections)
        guard = GuardInterceptor(observers, checks, limits.first_message_seconds)
        server = grpc.aio.server(interceptors=[guard], options=options)
        handlers = Handlers()
        server.add_generic_rpc_handlers((handlers.generic(SERVICE), handlers.generic(ADMIN_SERVICE)))
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
        address = bind_server(server, "localhost:0", tls)
        await server.start()
        if credentials is None:
            channel = grpc.aio.insecure_channel(address)
        else:
            channel = grpc.aio.secure_channel(address, credentials)
        try:
            async with channel:
                yield Calls(channel, handlers, address)
        finally:
            await server.stop(None)

    return run


class Failure:
    """A failed call taken apart."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code = error.code()
        self.message = error.details() or ""
        self.trailers = dict(error.trailing_metadata() or ())
        raw = self.trailers.get("grpc-status-details-bin")
        assert raw is not None, f"no rich status: {error}"
        status = status_pb2.Status.FromString(raw)
        assert status.code == self.code.value[0] and status.message == self.message
        self.details: dict[str, Any] = {}
        for detail in status.details:
            kind = getattr(error_details_pb2, detail.TypeName().rpartition(".")[2])
            self.details[kind.__name__] = unpacked = kind()
            detail.Unpack(unpacked)

    @property
    def reason(self) -> str:
        return str(self.details["ErrorInfo"].reason)


async def failure(call: Any) -> Failure:
    """Await a call, or read a stream to its end, and return how it failed."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    return Failure(caught.value)


__all__ = ["ADMIN_SERVICE", "SERVICE", "Calls", "Failure", "Running", "failure", "rpc_status"]
