"""One ModelStreamInfer call: many requests in, their responses out, mixed as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

MAX_CONCURRENT_REQUESTS = 256
"""Most requests of one call that are answered at the same time; more are not read yet."""


async def handle_stream(
    requests: AsyncIterable[Any],
    answer: Callable[[Any], AsyncGenerator[Any]],
    write: Callable[[Any], Awaitable[None]],
) -> None:
    """Answer until the client sends no more and all is answered. Cancelling it ends every request at once.

    Args:
        requests: as they arrive.
        answer: yields the responses to one; it does not fail.
        write: sends a response, and is not called again until it is done.
    """
    turn, room = asyncio.Lock(), asyncio.Semaphore(MAX_CONCURRENT_REQUESTS)

    async def reply(request: Any) -> None:
        try:
            async with aclosing(answer(request)) as responses:
                async for response in responses:
                    async with turn:
                        await write(response)
        except grpc.aio.BaseError:
            pass  # the client is gone: gRPC is about to cancel the whole call
        finally:
            room.release()

    async with asyncio.TaskGroup() as replies:
        async for request in requests:
            await room.acquire()
            replies.create_task(reply(request))
