"""How busy an engine is, how long its requests took, how it was checked: for whoever wants to read it.

vLLM's own metrics live in one registry per process, and a second engine wipes those of the first.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.v1.metrics.stats import IterationStats, SchedulerStats

# Seconds. Between neighbours a factor of 2 to 2.5: enough to see a percentile move.
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)
STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5)


class Histogram:
    """Counts of values up to each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value; a clock that went backwards counts as zero."""
        value = max(value, 0.0)
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Yield (bound, values up to it), the last bound being infinite."""
        return zip((*self._bounds, float("inf")), accumulate(self._counts), strict=True)

    @property
    def count(self) -> int:
        return sum(self._counts)


@dataclass
class EngineStats:
    """What an engine's scheduler said after its last step, and totals of all steps.

    Attributes:
        running: requests being computed.
        waiting: requests waiting to be.
        after_step: called after every step.
        kv_cache_usage: part of the room for keys and values in use, 0 to 1.
        kv_cache_tokens: that room, in tokens.
        pids: the engine's processes.
        prompt_tokens: prompt tokens of requests that have begun to answer.
        generated_tokens: tokens generated.
        preemptions: times that a request had to give its room up and start again.
        finished: ended requests by reason: stop, length, abort, ...
        left: requests that their clients left, or that failed, before they ended.
        queue: seconds until a request was first scheduled.
        first_token: seconds from arrival to the first token.
        inter_token: seconds between tokens of a request.
        end_to_end: seconds from arrival to the end.
    """

    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    kv_cache_tokens: int = 0
    pids: tuple[int, ...] = ()
    prompt_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    left: int = 0
    queue: Histogram = field(default_factory=lambda: Histogram(LATENCY_BUCKETS))
    first_token: Histogram = field(default_factory=lambda: Histogram(LATENCY_BUCKETS))
    inter_token: Histogram = field(default_factory=lambda: Histogram(STEP_BUCKETS))
    end_to_end: Histogram = field(default_factory=lambda: Histogram(LATENCY_BUCKETS))
    after_step: Callable[[], None] = lambda: None

    @property
    def resident_bytes(self) -> int:
        """Memory of the processes; none of those that have ended."""
        pages = 0
        for pid in self.pids:
            with suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None = None,
        *_: Any,
        **__: Any,
    ) -> None:
        """Take over the counters; vLLM calls this after every step."""
        if scheduler_stats is not None:
            self.running = scheduler_stats.num_running_reqs
            self.waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            self.kv_cache_usage = scheduler_stats.kv_cache_usage
        if iteration_stats is not None:
            self._add(iteration_stats)
        self.after_step()

    def _add(self, step: IterationStats) -> None:
        self.prompt_tokens += step.num_prompt_tokens
        self.generated_tokens += step.num_generation_tokens
        self.preemptions += step.num_preempted_reqs
        for seconds in step.time_to_first_tokens_iter:
            self.first_token.observe(seconds)
        for seconds in step.inter_token_latencies_iter:
            self.inter_token.observe(seconds)
        for request in step.finished_requests:
            self.finished[str(request.finish_reason)] += 1
            self.end_to_end.observe(request.e2e_latency)


@dataclass(frozen=True)
class EngineCheckResult:
    """How an engine was checked; see ``secateur.v1.EngineCheck``."""

    golden_tokens: int
    greatest_difference: float
    tensors_verified: int
    tensors_repacked: int
    seconds: float
