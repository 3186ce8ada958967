"""Service level objectives: met or not."""

from __future__ import annotations

from dataclasses import replace

from secateur.bench.metrics.row import meets_slo
from tests.bench.load.test_journal import FAILED, RECORD


def test_met() -> None:
    """The record's first token came after 500 ms, each other one after 167 ms, the last after 1 s."""
    assert meets_slo(RECORD, {"ttft": 500, "tpot": 170, "e2el": 1000})
    assert not meets_slo(RECORD, {"ttft": 499})
    assert not meets_slo(RECORD, {"ttft": 1000, "tpot": 160})
    assert not meets_slo(FAILED, {"ttft": 1000})
    one = replace(RECORD, times=(1.5,), tokens=(1,), output_tokens=1)
    assert meets_slo(one, {"tpot": 1})  # nothing came after the first
