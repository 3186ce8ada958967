"""Clients that come and go: nothing of them stays in the engine or the server."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing, suppress
from typing import Any

import psutil
import pytest

from secateur.client import AsyncClient, CallFailed
from secateur.serve.process import ServerProcess

pytestmark = pytest.mark.slow

PROMPT = "It was a bright cold day in April"


async def visit(address: str, chance: random.Random) -> None:
    """Ask in one form or another; read to the end, cancel, hang up or run out of time."""
    client = AsyncClient(address, timeout=chance.choice([0.05, 0.3, 60]))
    sampling: dict[str, Any] = {"max_tokens": chance.choice([1, 30, 300]), "ignore_eos": True}
    sampling |= {"n": chance.choice([1, 1, 3]), "priority": chance.randint(-3, 3)}

    async def ask() -> None:
        if chance.random() < 0.3:
            await client.complete("llama", PROMPT, **sampling)
        elif chance.random() < 0.2:
            await client.score_all("llama", [PROMPT, PROMPT * 3])
        else:
            async with aclosing(client.generate("llama", PROMPT, **sampling)) as events:
                async for _ in events:
                    if chance.random() < 0.02:
                        break

    task = asyncio.create_task(ask())
    await asyncio.wait([task], timeout=chance.choice([0.0, 0.02, 0.2, 60]))
    if chance.random() < 0.5:
        task.cancel()
    await client.close()
    with suppress(CallFailed, asyncio.CancelledError):
        await task


async def churn(address: str, visits: int, seed: int) -> None:
    """Sixteen clients at a time."""
    chance = random.Random(seed)
    places = asyncio.Semaphore(16)

    async def one() -> None:
        async with places:
            await visit(address, random.Random(chance.random()))

    await asyncio.gather(*(one() for _ in range(visits)))


async def until_idle(client: AsyncClient) -> None:
    async with asyncio.timeout(10):
        while (counters := (await client.models.get("llama")).counters).running_requests:
            await asyncio.sleep(0.01)
    assert (counters.waiting_requests, counters.kv_cache_usage) == (0, 0.0)


async def test_nothing_of_clients_that_left_stays(server: ServerProcess) -> None:
    process = psutil.Process(server.process.pid)
    async with AsyncClient(server.address, timeout=60) as client:
        await churn(server.address, 60, seed=0)  # what is made once and kept, such as threads
        await until_idle(client)
        await asyncio.sleep(0.5)
        descriptors, threads = process.num_fds(), process.num_threads()
        await churn(server.address, 200, seed=1)
        await until_idle(client)
        await asyncio.sleep(0.5)
        assert process.num_fds() <= descriptors + 3
        assert process.num_threads() <= threads + 3
        greedy = {"temperature": 0.0, "ignore_eos": True}
        answers = await asyncio.gather(
            *(client.complete("llama", PROMPT, max_tokens=9, **greedy) for _ in range(4))  # type: ignore[arg-type]
        )
        assert len({answer.token_ids for answer in answers}) == 1
        assert (await client.models.get("llama")).counters.aborted_requests > 20
