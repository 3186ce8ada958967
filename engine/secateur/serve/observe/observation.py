"""Everything that observes, switched on as asked and off again at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from secateur.config.serve import ObserveOptions, TlsOptions
from secateur.serve.engine.stats import EngineStats
from secateur.serve.guard.interceptor import CallStage
from secateur.serve.observe import traces
from secateur.serve.observe.logs import log_call
from secateur.serve.observe.metrics import Metrics, watch_lag

SCRAPE_SECONDS = 5.0
log = logging.getLogger(__name__)


@asynccontextmanager
async def observing(
    options: ObserveOptions,
    tls: TlsOptions | None,
    loads: Callable[[], Iterable[tuple[str, str, EngineStats]]],
) -> AsyncIterator[tuple[CallStage, ...]]:
    """Observe until the context ends; yields the observers that calls are to go through.

    Args:
        options: what to observe.
        tls: how metrics are encrypted.
        loads: yields model, version and what its engine counts, for every engine.

    Raises:
        BackendUnavailable: traces were asked for and their packages are not there.
        BadInput: the metrics' address cannot be bound.
    """
    observers: list[CallStage] = []
    async with AsyncExitStack() as ending:
        if options.log_calls:
            observers.append(log_call)
        if options.metrics is not None:
            metrics = Metrics(_run_on_loop(loads))
            address, stop = metrics.serve(options.metrics, tls)
            ending.push_async_callback(asyncio.to_thread, stop)
            log.info("metrics on http%s://%s/metrics", "s" if tls else "", address)
            await ending.enter_async_context(_running(watch_lag(metrics.lag.observe)))
            observers.append(metrics)
        if options.traces is not None:
            stop = traces.start_tracing(traces.otlp_exporter(options.traces))
            ending.push_async_callback(asyncio.to_thread, stop)
            observers.append(traces.trace_call)
        yield tuple(observers)


def _run_on_loop(function: Callable[[], Iterable[Any]]) -> Callable[[], list[Any]]:
    """Return the same for other threads: what it looks at changes on the event loop."""
    loop = asyncio.get_running_loop()

    async def collect() -> list[Any]:
        return list(function())

    return lambda: asyncio.run_coroutine_threadsafe(collect(), loop).result(SCRAPE_SECONDS)


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
