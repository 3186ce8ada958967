"""Metrics as Prometheus reads them: over HTTP, of calls and of engines that come and go."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from secateur.errors import BadInput
from secateur.serve.engine.stats import LATENCY_BUCKETS, EngineStats, Histogram
from secateur.serve.observe.metrics import Metrics, watch_lag
from tests.serve.guard.conftest import Calls, Running, failure


@dataclass
class Scraped:
    """All samples of one scrape."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)

    def get(self, name: str, **labels: str) -> float | None:
        return self.samples.get((name, frozenset(labels.items())))


def scrape(address: str) -> Scraped:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return Scraped(
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }
    )


@dataclass
class Served:
    metrics: Metrics
    address: str
    engines: dict[str, EngineStats]


@pytest.fixture
def served() -> Iterator[Served]:
    engines: dict[str, EngineStats] = {}
    metrics = Metrics(lambda: [(*name.split("/"), load) for name, load in engines.items()])  # type: ignore[misc]
    address, stop = metrics.serve("127.0.0.1:0", None)
    yield Served(metrics, address, engines)
    stop()


def step(**changes: Any) -> SimpleNamespace:
    """What vLLM hands over after a step."""
    found = {
        "num_prompt_tokens": 0,
        "num_generation_tokens": 0,
        "num_preempted_reqs": 0,
        "time_to_first_tokens_iter": [],
        "inter_token_latencies_iter": [],
        "finished_requests": [],
    }
    return SimpleNamespace(**{**found, **changes})


async def test_calls(running: Running, served: Served) -> None:
    async with running(observers=[served.metrics]) as calls:
        await calls.say()
        await calls.say()
        await failure(calls.say("refuse"))
        await failure(calls.say("bug"))
        await failure(calls.say(method="Guess1"))
        await failure(calls.say(method="Guess2"))
        [number async for number in calls.count(3)]
        await cancelled(calls)
        waiting = calls.count(0)
        await asyncio.sleep(0.1)
        seen = await asyncio.to_thread(scrape, served.address)
        waiting.cancel()
    say = {"service": "secateur.v1.InferenceService", "method": "Say"}
    count = say | {"method": "Count"}
    unknown = {"service": "unknown", "method": "unknown"}
    assert seen.get("secateur_calls_total", **say, code="OK") == 2
    assert seen.get("secateur_calls_total", **say, code="INVALID_ARGUMENT") == 1
    assert seen.get("secateur_calls_total", **say, code="INTERNAL") == 1
    assert seen.get("secateur_calls_total", **count, code="OK") == 1
    assert seen.get("secateur_calls_total", **say, code="CANCELLED") == 1
    assert seen.get("secateur_calls_total", **say, code="DEADLINE_EXCEEDED") == 1
    assert seen.get("secateur_calls_total", **unknown, code="UNIMPLEMENTED") == 2
    assert seen.get("secateur_running_calls", **say) == 0
    assert seen.get("secateur_running_calls", **count) == 1
    assert seen.get("secateur_call_seconds_count", **say) == 6
    assert (seen.get("process_resident_memory_bytes") or 0) > 2**20
    assert (seen.get("process_open_fds") or 0) > 3


async def cancelled(calls: Calls) -> None:
    """One call that the client cancels, and one that it waited for long enough."""
    calls.handlers.started.clear()
    call = calls.say("wait")
    await calls.handlers.started.wait()
    call.cancel()
    await calls.handlers.cancelled.wait()
    calls.handlers.cancelled.clear()
    late = calls.say("wait", timeout=0.2)
    await calls.handlers.cancelled.wait()
    assert (await late.code()).name == "DEADLINE_EXCEEDED"


def test_engines_come_and_go(served: Served) -> None:
    assert scrape(served.address).get("secateur_running_requests", model="slim", version="1") is None
    first, second = EngineStats(), EngineStats()
    served.engines |= {"slim/1": first, "slim/2": second}
    scheduler = SimpleNamespace(
        num_running_reqs=3, num_waiting_reqs=1, num_skipped_waiting_reqs=1, kv_cache_usage=0.25
    )
    ended = SimpleNamespace(finish_reason="length", e2e_latency=1.5)
    first.record(
        scheduler,  # type: ignore[arg-type]
        step(  # type: ignore[arg-type]
            num_prompt_tokens=7,
            num_generation_tokens=3,
            num_preempted_reqs=1,
            time_to_first_tokens_iter=[0.2],
            inter_token_latencies_iter=[0.004, 0.04],
            finished_requests=[ended],
        ),
        engine_idx=0,
    )
    first.queue.observe(0.02)
    second.record(None, None, engine_idx=0)
    seen = scrape(served.address)
    old, new = {"model": "slim", "version": "1"}, {"model": "slim", "version": "2"}
    assert seen.get("secateur_running_requests", **old) == 3
    assert seen.get("secateur_waiting_requests", **old) == 2
    assert seen.get("secateur_kv_cache_usage_ratio", **old) == 0.25
    assert seen.get("secateur_prompt_tokens_total", **old) == 7
    assert seen.get("secateur_generated_tokens_total", **old) == 3
    assert seen.get("secateur_preemptions_total", **old) == 1
    assert seen.get("secateur_requests_total", **old, reason="length") == 1
    assert seen.get("secateur_time_to_first_token_seconds_count", **old) == 1
    assert seen.get("secateur_time_to_first_token_seconds_bucket", **old, le="0.1") == 0
    assert seen.get("secateur_time_to_first_token_seconds_bucket", **old, le="0.25") == 1
    assert seen.get("secateur_inter_token_seconds_sum", **old) == pytest.approx(0.044)
    assert seen.get("secateur_request_seconds_bucket", **old, le="+Inf") == 1
    assert seen.get("secateur_queue_seconds_count", **old) == 1
    assert seen.get("secateur_generated_tokens_total", **new) == 0
    del served.engines["slim/1"]
    seen = scrape(served.address)
    assert seen.get("secateur_running_requests", **old) is None
    assert seen.get("secateur_running_requests", **new) == 0


def test_histograms_count_every_value_once() -> None:
    histogram = Histogram(LATENCY_BUCKETS)
    for value in (0.0, -1.0, 0.005, 0.0051, 1e9):
        histogram.observe(value)
    counts = dict(histogram.cumulative())
    assert counts[0.005] == 3 and counts[0.01] == 4 and counts[250.0] == 4 and counts[float("inf")] == 5
    assert histogram.count == 5


async def test_lag_is_seen() -> None:
    import time

    lags: list[float] = []
    task = asyncio.create_task(watch_lag(lags.append))
    await asyncio.sleep(0.05)
    time.sleep(0.3)
    await asyncio.sleep(0.2)
    task.cancel()
    assert max(lags) > 0.2


def test_address_taken(served: Served) -> None:
    with pytest.raises(BadInput, match=r"metrics: got .*: cannot be bound"):
        served.metrics.serve(served.address, None)
