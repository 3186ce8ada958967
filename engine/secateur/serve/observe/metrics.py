"""What Prometheus finds: calls by their end, the engines, the event loop, the process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)

from secateur.config.address import host_of
from secateur.config.serve import TlsOptions
from secateur.errors import BadInput
from secateur.serve.engine.stats import LATENCY_BUCKETS, EngineStats
from secateur.serve.guard.call import CallContext
from secateur.serve.observe.engines import EngineCollector

LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Metrics:
    """A registry of our own, and an observer of calls that fills it.

    vLLM uses the global registry and clears it with every engine it starts.

    Args:
        loads: yields model, version and what its engine counts, for every engine.
    """

    def __init__(self, loads: Callable[[], Iterable[tuple[str, str, EngineStats]]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(loads))
        ProcessCollector(registry=self.registry)
        calls = ("service", "method")
        self._ended = Counter(
            "secateur_calls", "Calls ended, by status", (*calls, "code"), registry=self.registry
        )
        self._running = Gauge("secateur_running_calls", "Calls being answered", calls, registry=self.registry)
        self._seconds = Histogram(
            "secateur_call_seconds",
            "How long calls took",
            calls,
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.lag = Histogram(
            "secateur_event_loop_lag_seconds",
            "How much later than asked for the event loop woke up",
            buckets=LAG,
            registry=self.registry,
        )

    @contextmanager
    def __call__(self, call: CallContext) -> Iterator[None]:
        # What does not exist has one name: clients must not be able to make series.
        labels = (call.service, call.name) if call.is_registered else ("unknown", "unknown")
        running = self._running.labels(*labels)
        running.inc()
        started = time.perf_counter()
        try:
            yield
        finally:
            running.dec()
            self._ended.labels(*labels, call.code).inc()
            self._seconds.labels(*labels).observe(time.perf_counter() - started)

    def serve(self, address: str, tls: TlsOptions | None) -> tuple[str, Callable[[], None]]:
        """Answer Prometheus at ``HOST:PORT``, in a thread; return the address and what ends it.

        Raises:
            BadInput: the address is taken or not of this machine.
        """
        secrets: dict[str, Any] = {}
        if tls is not None:
            secrets = {"certfile": str(tls.certificate), "keyfile": str(tls.key)}
            if tls.client_ca is not None:
                secrets |= {"client_cafile": str(tls.client_ca), "client_auth_required": True}
        host = host_of(address)
        try:
            server, thread = start_http_server(
                int(address.rpartition(":")[2]), host, self.registry, **secrets
            )
        except OSError as error:
            raise BadInput("metrics", address, "cannot be bound: in use, or not this machine's") from error

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return f"{address.rpartition(':')[0]}:{server.server_port}", stop


INTERVAL = 0.1


async def watch_lag(observe: Callable[[float], None]) -> None:
    """Report, ten times a second, by how many seconds the loop woke up late; runs until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL
        await asyncio.sleep(INTERVAL)
        observe(max(0.0, loop.time() - due))
