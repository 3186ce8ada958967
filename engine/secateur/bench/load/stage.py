"""One level of load: who sends when, and for how long."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

WARMUP_WAVES = 2
"""A closed loop's first requests, so many times its concurrency, are not counted; half in later rounds."""

WARMUP_SHARE = 0.1
"""Of an open loop's time: what arrives before is not counted."""

MIN_WARMUP_SECONDS = 1.0


@dataclass(frozen=True)
class StopCondition:
    """How much is measured: for so many seconds, or so many requests."""

    seconds: float | None = None
    requests: int | None = None


@dataclass(frozen=True)
class ClosedLoop:
    """So many clients, each of which sends its next request when its last one is answered."""

    concurrency: int

    @property
    def label(self) -> str:
        return f"concurrency {self.concurrency}"

    def warmup(self, first: bool) -> int:
        """Requests that are not counted; `first` in the first round."""
        return max(2, self.concurrency * (WARMUP_WAVES if first else 1))

    def to_json(self) -> dict[str, Any]:
        return {"kind": "closed", "label": self.label, "concurrency": self.concurrency}


@dataclass(frozen=True)
class OpenLoop:
    """Requests arrive whether or not earlier ones are answered.

    Attributes:
        rate: per second.
        to_rate: at the end; the rate changes evenly. None = it does not change.
        poisson: whether arrivals are random; otherwise they are evenly spaced.
        limit: most requests in flight; the others wait at the client. None = no limit.
    """

    rate: float
    to_rate: float | None = None
    poisson: bool = True
    limit: int | None = None

    @property
    def label(self) -> str:
        rates = f"{self.rate:g}" if self.to_rate is None else f"{self.rate:g} to {self.to_rate:g}"
        return f"rate {rates}/s"

    def arrivals(self, seconds: float, seed: int) -> Iterator[float]:
        """Seconds from the start at which requests arrive; without end.

        After `seconds` the rate stays what it was then.
        """
        rng = np.random.default_rng(seed)
        work = 0.0  # requests expected by now
        while True:
            work += float(rng.exponential()) if self.poisson else 1.0
            yield self._when(work, seconds)

    def _when(self, work: float, seconds: float) -> float:
        """When so many requests are expected to have arrived."""
        if self.to_rate is None:
            return work / self.rate
        slope = (self.to_rate - self.rate) / seconds
        whole = (self.rate + self.to_rate) / 2 * seconds
        if work > whole:
            return seconds + (work - whole) / self.to_rate
        if abs(slope) < 1e-12:
            return work / self.rate
        return (-self.rate + math.sqrt(self.rate**2 + 2 * slope * work)) / slope

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "open" if self.to_rate is None else "ramp",
            "label": self.label,
            "rate": self.rate,
            "to_rate": self.to_rate,
            "arrivals": "poisson" if self.poisson else "constant",
            "max_concurrency": self.limit,
        }


@dataclass(frozen=True)
class TraceReplay:
    """Requests of a trace, at its own times.

    Attributes:
        times: seconds from its beginning, ascending.
        limit: most requests in flight; None = no limit.
    """

    times: tuple[float, ...]
    limit: int | None = None

    @property
    def label(self) -> str:
        return "trace"

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "trace",
            "label": self.label,
            "requests": len(self.times),
            "max_concurrency": self.limit,
        }


LoadPattern = ClosedLoop | OpenLoop | TraceReplay


@dataclass(frozen=True)
class Stage:
    """A load for a while.

    Attributes:
        number: its place in the benchmark.
    """

    number: int
    load: LoadPattern
    stop: StopCondition
