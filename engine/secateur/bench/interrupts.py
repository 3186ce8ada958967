"""Ctrl-C while a benchmark runs: the first ends it early with what there is, the second at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

Result = TypeVar("Result")


async def interruptible(work: Callable[[asyncio.Event], Awaitable[Result]]) -> Result:
    """Await work that is told by an event when it is to end.

    Raises:
        KeyboardInterrupt: interrupted a second time.
    """
    stop = asyncio.Event()
    task = asyncio.ensure_future(work(stop))

    def received() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, received)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
