"""Service level objectives: what a request must reach to be a good one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from secateur.bench.load.record import RequestRecord
from secateur.errors import BadInput

METRICS = ("ttft", "tpot", "e2el")
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}

# MLPerf Inference, limits of the 99th percentile for the Server and Interactive scenarios.
PRESETS: Mapping[str, Mapping[str, float]] = {
    "mlperf-llama3.1-8b": {"ttft": 2000, "tpot": 100},
    "mlperf-llama3.1-8b-interactive": {"ttft": 500, "tpot": 30},
    "mlperf-llama2-70b": {"ttft": 2000, "tpot": 200},
    "mlperf-llama2-70b-interactive": {"ttft": 450, "tpot": 40},
    "mlperf-llama3.1-405b": {"ttft": 6000, "tpot": 175},
    "mlperf-llama3.1-405b-interactive": {"ttft": 4500, "tpot": 80},
}


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

    def to_json(self) -> dict[str, float]:
        """Milliseconds by metric."""
        return dict(self.limits)


def parse_slo(text: str) -> LatencySlo:
    """Read ``ttft=500ms,tpot=50ms`` or the name of a preset.

    Raises:
        BadInput: neither.
    """
    if text in PRESETS:
        return LatencySlo(PRESETS[text])
    limits: dict[str, float] = {}
    for part in text.split(","):
        metric, _, value = part.strip().partition("=")
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", value.strip())
        if metric not in METRICS or found is None or float(found[1]) <= 0:
            raise BadInput(
                "slo",
                text,
                f"METRIC=TIME with {', '.join(METRICS)} and us, ms or s; or {', '.join(PRESETS)}",
            )
        if metric in limits:
            raise BadInput("slo", text, f"{metric} is given twice")
        limits[metric] = float(found[1]) * UNITS[found[2]]
    return LatencySlo(limits)
