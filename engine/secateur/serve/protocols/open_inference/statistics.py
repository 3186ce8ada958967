"""How many requests of this protocol each version answered, and how long they took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from secateur.serve.inference.generation import Summary
from secateur.serve.models.pool import ServedModel
from secateur.serve.protocols.open_inference import wire


@dataclass
class Duration:
    """How often something happened, and how long that took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.count += 1
        self.ns += int(1e9 * seconds)


@dataclass
class Counts:
    """Of one version: requests that succeeded or failed, and what those that succeeded spent where."""

    last: float = 0.0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)


class Record:
    """One request; it failed unless it is said to be `complete`."""

    def __init__(self) -> None:
        self.completed = False
        self.summary: Summary | None = None

    def complete(self, summary: Summary | None) -> None:
        """Say that the request was answered."""
        self.completed, self.summary = True, summary


class Statistics:
    """Counts of all versions since the server started."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counts] = {}

    @contextmanager
    def request(self, model: ServedModel) -> Iterator[Record]:
        """Count a request, however it ends."""
        counts = self._counts.setdefault((model.name, model.version), Counts())
        counts.last = time.time()
        started, record = time.perf_counter(), Record()
        try:
            yield record
        finally:
            seconds = time.perf_counter() - started
            (counts.success if record.completed else counts.fail).add(seconds)
            timings = record.summary.timings if record.summary else None
            if timings is not None:
                counts.queue.add(timings.queue_ms / 1e3)
                counts.compute_infer.add((timings.prefill_ms + timings.decode_ms) / 1e3)

    def describe(self, model: ServedModel) -> Any:
        """Return the ModelStatistics of a version."""
        counts = self._counts.get((model.name, model.version), Counts())
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
