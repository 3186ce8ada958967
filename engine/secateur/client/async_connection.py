"""The asynchronous twin of `Connection`; it belongs to the event loop it was made in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

import grpc

from secateur.client.call import RpcCall
from secateur.client.connection import BaseConnection, next_page_request
from secateur.client.endpoint import Endpoint

T = TypeVar("T")


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
