"""Metrics of the engines, read from them when Prometheus asks.

Nothing is registered when an engine starts and nothing is forgotten when it stops, so engines may come
and go: a version that is no longer there has no series any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from secateur.serve.engine.stats import EngineStats, Histogram

LABELS = ("model", "version")
GAUGES: Mapping[str, tuple[str, Callable[[EngineStats], float]]] = {
    "secateur_running_requests": ("Requests being computed", lambda load: load.running),
    "secateur_waiting_requests": ("Requests waiting to be computed", lambda load: load.waiting),
    "secateur_kv_cache_usage_ratio": (
        "Part of the room for keys and values in use",
        lambda load: load.kv_cache_usage,
    ),
    "secateur_kv_cache_tokens": ("Room for keys and values, in tokens", lambda load: load.kv_cache_tokens),
    "secateur_engine_resident_memory_bytes": (
        "Memory of the engine's processes",
        lambda load: load.resident_bytes,
    ),
}
COUNTERS: Mapping[str, tuple[str, Callable[[EngineStats], float]]] = {
    "secateur_prompt_tokens": (
        "Prompt tokens of requests being answered",
        lambda load: load.prompt_tokens,
    ),
    "secateur_generated_tokens": ("Tokens generated", lambda load: load.generated_tokens),
    "secateur_requests_left": ("Requests left by their clients before the end", lambda load: load.left),
    "secateur_preemptions": (
        "Requests that lost their room and began again",
        lambda load: load.preemptions,
    ),
}
HISTOGRAMS: Mapping[str, tuple[str, Callable[[EngineStats], Histogram]]] = {
    "secateur_queue_seconds": ("From arrival in the engine to the first step", lambda load: load.queue),
    "secateur_time_to_first_token_seconds": (
        "From arrival to first token",
        lambda load: load.first_token,
    ),
    "secateur_inter_token_seconds": ("Between the tokens of a request", lambda load: load.inter_token),
    "secateur_request_seconds": ("From arrival to the last token", lambda load: load.end_to_end),
}


class EngineCollector(Collector):
    """Describes every engine there is at the moment.

    Args:
        loads: yields model, version and what its engine counts.
    """

    def __init__(self, loads: Callable[[], Iterable[tuple[str, str, EngineStats]]]) -> None:
        self._loads = loads

    def collect(self) -> Iterator[Metric]:
        """Yield all families; Prometheus' thread calls this."""
        loads = list(self._loads())
        for name, (text, value) in GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=LABELS)
            for model, version, load in loads:
                gauge.add_metric((model, version), value(load))
            yield gauge
        for name, (text, value) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=LABELS)
            for model, version, load in loads:
                counter.add_metric((model, version), value(load))
            yield counter
        requests = CounterMetricFamily(
            "secateur_requests", "Requests that the engine ended, by reason", labels=(*LABELS, "reason")
        )
        for model, version, load in loads:
            for reason, count in sorted(load.finished.items()):
                requests.add_metric((model, version, reason), count)
        yield requests
        for name, (text, histogram) in HISTOGRAMS.items():
            family = HistogramMetricFamily(name, text, labels=LABELS)
            for model, version, load in loads:
                family.add_metric((model, version), *_wire(histogram(load)))
            yield family


def _wire(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    buckets = [(_bound(bound), float(count)) for bound, count in histogram.cumulative()]
    return buckets, histogram.sum


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else repr(bound)
