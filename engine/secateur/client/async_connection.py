"""The asynchronous twin of `Connection`; it belongs to the event loop it was made in."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import grpc

from secateur.client.call import RpcCall
from secateur.client.connection import BaseConnection, next_page_request
from secateur.client.endpoint import Endpoint

T = TypeVar("T")
P = ParamSpec("P")


class AsyncConnection(BaseConnection):
    """A channel; every method raises `CallFailed` when its call does."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.channel = self._open(grpc.aio)

    async def close(self) -> None:
        """Hang up; calls in flight are cancelled."""
        await self.channel.close()

    async def run(self, call: RpcCall[T]) -> T:
        """Return the answer of a unary method."""
        return call.read(await self._unary(call, call.request))

    async def run_pages(self, call: RpcCall[list[T]]) -> list[T]:
        """Return the answers of a List method, of all pages from the request's on."""
        items: list[T] = []
        request: Any = call.request
        while request is not None:
            page = await self._unary(call, request)
            items.extend(call.read(page))
            request = next_page_request(request, page)
        return items

    async def stream(self, call: RpcCall[T]) -> AsyncGenerator[T, None]:
        """Yield the answers of a streaming method; closing the iterator cancels the call."""
        attempts, delivered = self._attempts(call), False
        while True:
            answers = self._send(call, call.request, attempts.seconds_left())
            try:
                async for answer in answers:
                    delivered = True
                    yield call.read(answer)
                return
            except grpc.RpcError as error:
                wait = self._wait_after(error, attempts, delivered)
            finally:
                answers.cancel()
            await asyncio.sleep(wait)

    async def _unary(self, call: RpcCall[Any], request: Any) -> Any:
        attempts = self._attempts(call)
        while True:
            try:
                return await self._send(call, request, attempts.seconds_left())
            except grpc.RpcError as error:
                wait = self._wait_after(error, attempts)
            await asyncio.sleep(wait)


class AsyncStub:
    """Asynchronous methods over a connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection


def async_unary(build: Callable[P, RpcCall[T]]) -> Callable[Concatenate[Any, P], Awaitable[T]]:
    """Make an asynchronous method of a function that returns a unary call."""

    @functools.wraps(build)
    async def method(self: AsyncStub, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._connection.run(build(*args, **kwargs))

    return method


def async_paged(build: Callable[P, RpcCall[list[T]]]) -> Callable[Concatenate[Any, P], Awaitable[list[T]]]:
    """Make an asynchronous method of a function that returns the call of a List method."""

    @functools.wraps(build)
    async def method(self: AsyncStub, *args: P.args, **kwargs: P.kwargs) -> list[T]:
        return await self._connection.run_pages(build(*args, **kwargs))

    return method
