"""How late the event loop is: everything that streams waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

INTERVAL = 0.1


async def watch_lag(observe: Callable[[float], None]) -> None:
    """Report, ten times a second, by how many seconds the loop woke up late; runs until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL
        await asyncio.sleep(INTERVAL)
        observe(max(0.0, loop.time() - due))
