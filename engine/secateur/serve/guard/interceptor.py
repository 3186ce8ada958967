"""The one interceptor: every call of every service goes through it.

Handlers raise `RpcError` for what a client may hear, write to the context or yield, as they like. They see
cancellation as they would without it. Handlers must be asynchronous.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, aclosing
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2
from grpc_status import rpc_status

from secateur.config.serve import LimitOptions
from secateur.serve.failures import RpcError, to_rpc_error
from secateur.serve.guard.call import REQUEST_ID, CallContext, request_id, set_current_call

CallStage = Callable[[CallContext], AbstractContextManager[None]]
"""Entered when a call comes, left when it ends; raises `RpcError` to end it at once."""

# What ends a call without being a bug.
EXPECTED_ERRORS = (RpcError, grpc.aio.BaseError, DecodeError)
log = logging.getLogger(__name__)


class GuardInterceptor(grpc.aio.ServerInterceptor):
    """Gives calls an id, takes them through stages, and turns every failure into a google.rpc.Status.

    Args:
        observers: outermost stages; when they are left, the call's ``code`` says how it ended.
        checks: stages that may refuse a call.
        first_message_seconds: that a call may take until its first message is here.
    """

    def __init__(
        self,
        observers: Sequence[CallStage] = (),
        checks: Sequence[CallStage] = (),
        first_message_seconds: float = LimitOptions.first_message_seconds,
    ) -> None:
        self._observers = tuple(observers)
        self._checks = tuple(checks)
        self._first_message_seconds = first_message_seconds

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Return the handler of the method, guarded."""
        handler = await continuation(details)
        is_registered = handler is not None
        if handler is None:
            handler = grpc.stream_stream_rpc_method_handler(_unknown)
        # Requests always come as a stream: they are read after the checks, not before, so that a
        # message that cannot be parsed is our business too.
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        # A function, not a partial object: gRPC asks whether it is a coroutine function.
        behaviour = functools.partial(self._guarded, handler, details.method, is_registered)

        async def guarded(_: Any, context: grpc.aio.ServicerContext) -> Any:
            return await behaviour(context)

        return make(guarded, handler.request_deserializer, handler.response_serializer)

    async def _guarded(
        self,
        handler: grpc.RpcMethodHandler,
        method: str,
        is_registered: bool,
        context: grpc.aio.ServicerContext,
    ) -> Any:
        call = _call(method, is_registered, context)
        set_current_call(call)
        try:
            with ExitStack() as observers:
                for stage in self._observers:
                    observers.enter_context(stage(call))
                result = await self._checked(handler, call, context)
        except RpcError as refusal:
            status = rpc_status.to_status(refusal.to_status())
            trailers = (*status.trailing_metadata, *_trailers(call, context))
            await context.abort(status.code, status.details, trailers)
        context.set_trailing_metadata(_trailers(call, context))
        return result

    async def _checked(
        self, handler: grpc.RpcMethodHandler, call: CallContext, context: grpc.aio.ServicerContext
    ) -> Any:
        try:
            with ExitStack() as checks:
                for stage in self._checks:
                    checks.enter_context(stage(call))
                return await _run(handler, context, self._first_message_seconds)
        except (asyncio.CancelledError, Exception) as raised:
            error = _most_specific_error(raised)
            if isinstance(error, asyncio.CancelledError | grpc.aio.BaseError):
                # The client hung up, or the server was stopped: gRPC knows what to do.
                call.code = "DEADLINE_EXCEEDED" if call.deadline_exceeded else "CANCELLED"
                raise error from None
            refusal = to_rpc_error(error)
            if refusal.code == code_pb2.INTERNAL and not isinstance(error, RpcError):
                log.exception("%s failed: a bug", call.method)
                refusal.metadata = {"request_id": call.request_id}
            call.code, call.failure = code_pb2.Code.Name(refusal.code), refusal.message
            raise refusal from error


def _most_specific_error(error: BaseException) -> BaseException:
    """Return the error that says most of a task group's: how handlers divide their work is their affair."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    found = [_most_specific_error(one) for one in error.exceptions]
    return next((one for one in found if not isinstance(one, EXPECTED_ERRORS)), found[0])


class _Context:
    """The context that handlers get: gRPC's own, but aborting raises `RpcError` like everything else does."""

    def __init__(self, context: grpc.aio.ServicerContext) -> None:
        self._context = context
        self.read, self.write = context.read, context.write  # once per message: no detours

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """End the call with this status."""
        self._context.set_trailing_metadata(tuple(trailing_metadata))
        raise RpcError(code.value[0], code.name, details or code.value[1])


async def _run(
    handler: grpc.RpcMethodHandler, context: grpc.aio.ServicerContext, first_message_seconds: float
) -> Any:
    """Answer in whichever way the handler does."""
    function = getattr(
        handler,
        f"{'stream' if handler.request_streaming else 'unary'}_"
        f"{'stream' if handler.response_streaming else 'unary'}",
    )
    guarded_context = _Context(context)
    first = await _first_message(context, first_message_seconds)
    request = _requests(first, context) if handler.request_streaming else _only_request(first)
    if not inspect.isasyncgenfunction(function):
        return await function(request, guarded_context)
    async with aclosing(function(request, guarded_context)) as responses:
        async for response in responses:
            await context.write(response)
    return None


async def _first_message(context: grpc.aio.ServicerContext, seconds: float) -> Any:
    """Await the first message, or the end of the client's: who says nothing shall not occupy a place."""
    try:
        async with asyncio.timeout(seconds):
            return await context.read()
    except TimeoutError:
        raise RpcError(
            code_pb2.DEADLINE_EXCEEDED, "REQUEST_LATE", f"no message within {seconds:g} s of the call's begin"
        ) from None


async def _requests(first: Any, context: grpc.aio.ServicerContext) -> Any:
    request = first
    while request is not grpc.aio.EOF:
        yield request
        request = await context.read()


def _only_request(request: Any) -> Any:
    if request is grpc.aio.EOF:
        raise RpcError(code_pb2.INVALID_ARGUMENT, "REQUEST_MISSING", "the call ended without a request")
    return request


async def _unknown(_: Any, context: grpc.aio.ServicerContext) -> NoReturn:
    raise RpcError(code_pb2.UNIMPLEMENTED, "METHOD_UNKNOWN", "this server has no such method")


def _call(method: str, is_registered: bool, context: grpc.aio.ServicerContext) -> CallContext:
    metadata = tuple(context.invocation_metadata() or ())
    remaining = context.time_remaining()
    return CallContext(
        method=method,
        request_id=request_id(metadata),
        is_registered=is_registered,
        metadata=dict(metadata),
        peer=context.peer(),
        identities=_identities(context),
        deadline=None if remaining is None else time.monotonic() + remaining,
    )


def _trailers(call: CallContext, context: grpc.aio.ServicerContext) -> tuple[tuple[str, str | bytes], ...]:
    """Return what the handler wants to send at the end, and the request's id."""
    return (*context.trailing_metadata(), (REQUEST_ID, call.request_id))


def _identities(context: grpc.aio.ServicerContext) -> frozenset[str]:
    """Return the common name and alternative names of the client's certificate."""
    auth_context = context.auth_context()
    keys = ("x509_common_name", "x509_subject_alternative_name")
    return frozenset(name.decode(errors="replace") for key in keys for name in auth_context.get(key, ()))
