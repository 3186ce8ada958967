"""Drivers over real sockets against a server without a model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from secateur.bench.load.generator import BenchmarkTarget, LoadGenerator
from secateur.bench.load.journal import BenchmarkLog, Journal
from secateur.bench.load.prompt import BenchmarkPrompt, BenchmarkRequest
from secateur.bench.load.record import Phase, RequestRecord
from secateur.bench.load.stage import LoadPattern, Stage, StopCondition
from secateur.bench.targets.secateur import SecateurTarget
from secateur.client.endpoint import Endpoint
from secateur.client.retries import RetryPolicy


def endpoint(address: str, timeout: float = 30.0) -> Endpoint:
    return Endpoint(address, timeout=timeout, retries=RetryPolicy(attempts=1))


async def drive(
    address: str,
    load: LoadPattern,
    stage_stop: StopCondition,
    *,
    model: str = "null",
    tokens: int = 5,
    timeout: float = 30.0,
    stop: asyncio.Event | None = None,
    meanwhile: Callable[[], object] | None = None,
) -> BenchmarkLog:
    """Run one stage against a null server."""
    target = SecateurTarget(endpoint(address, timeout))
    journal = Journal(None, {"labels": [model]})
    generator = LoadGenerator(journal, time.perf_counter(), stop or asyncio.Event())
    request = BenchmarkRequest(BenchmarkPrompt(3, token_ids=(1, 2, 3)), tokens)
    side = asyncio.ensure_future(meanwhile()) if meanwhile else None  # type: ignore[arg-type]
    try:
        await generator.run(
            Stage(0, load, stage_stop), 0, BenchmarkTarget(model, model, target, lambda number: request), 0
        )
    finally:
        if side is not None:
            await side
        await target.close()
    return journal.log


def measured(log: BenchmarkLog) -> list[RequestRecord]:
    return [record for record in log.records if record.phase is Phase.MEASURED]
