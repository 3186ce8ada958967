"""Service level objectives: what a request must reach to be a good one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from secateur.bench.load.record import RequestRecord


@dataclass(frozen=True)
class LatencySlo:
    """Limits in milliseconds, by metric; at least one."""

    limits: Mapping[str, float]

    def met_by(self, record: RequestRecord) -> bool:
        """True for a whole answer within all limits; an answer of one message has no time per token."""
        if not record.ok:
            return False
        reached = {"ttft": record.ttft_ms, "tpot": record.tpot_ms or 0.0, "e2el": record.e2e_ms}
        return all(reached[metric] <= limit for metric, limit in self.limits.items())
