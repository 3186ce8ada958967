"""How many requests of this protocol each version answered, and how long they took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from secateur.serve.inference.generation import GenerationSummary
from secateur.serve.models.pool import ModelVersion
from secateur.serve.protocols.open_inference import wire


@dataclass
class DurationTotal:
    """How often something happened, and how long that took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += int(1e9 * seconds)


@dataclass
class VersionCounts:
    """Of one version: requests that succeeded or failed, and what those that succeeded spent where."""

    last: float = 0.0
    success: DurationTotal = field(default_factory=DurationTotal)
    fail: DurationTotal = field(default_factory=DurationTotal)
    queue: DurationTotal = field(default_factory=DurationTotal)
    compute_infer: DurationTotal = field(default_factory=DurationTotal)


class RequestTimer:
    """One request; it failed unless it is said to be `complete`."""

    def __init__(self) -> None:
        self.completed = False
        self.summary: GenerationSummary | None = None

    def complete(self, summary: GenerationSummary | None) -> None:
        """Say that the request was answered."""
        self.completed, self.summary = True, summary


class RequestStatistics:
    """Counts of all versions since the server started."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], VersionCounts] = {}

    @contextmanager
    def request(self, model: ModelVersion) -> Iterator[RequestTimer]:
        """Count a request, however it ends."""
        counts = self._counts.setdefault((model.name, model.version), VersionCounts())
        counts.last = time.time()
        started, record = time.perf_counter(), RequestTimer()
        try:
            yield record
        finally:
            seconds = time.perf_counter() - started
            (counts.success if record.completed else counts.fail).add(seconds)
            timings = record.summary.timings if record.summary else None
            if timings is not None:
                counts.queue.add(timings.queue_ms / 1e3)
                counts.compute_infer.add((timings.prefill_ms + timings.decode_ms) / 1e3)

    def describe(self, model: ModelVersion) -> Any:
        """Return the ModelStatistics of a version."""
        counts = self._counts.get((model.name, model.version), VersionCounts())
        described = wire.ModelStatistics(
            name=model.name,
            version=model.version,
            last_inference=int(1e3 * counts.last),
            inference_count=counts.success.count,
            # Each request runs by itself as far as this protocol can tell.
            execution_count=counts.success.count,
        )
        for name in ("success", "fail", "queue", "compute_infer"):
            duration = getattr(counts, name)
            part = getattr(described.inference_stats, name)
            part.count, part.ns = duration.count, duration.ns
        return described
