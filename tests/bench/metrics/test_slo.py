"""Service level objectives: read, and met or not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from secateur.bench.metrics.slo import PRESETS, parse_slo
from secateur.errors import BadInput
from tests.bench.load.test_journal import FAILED, RECORD


def test_read() -> None:
    assert parse_slo("ttft=500ms,tpot=0.05s").limits == {"ttft": 500, "tpot": 50}
    assert parse_slo("e2el=250us").limits == {"e2el": 0.25}
    assert parse_slo("mlperf-llama2-70b-interactive").limits == {"ttft": 450, "tpot": 40}


@pytest.mark.parametrize(
    "text", ["", "ttft", "ttft=500", "ttft=0ms", "ttft=-5ms", "itl=5ms", "ttft=1s,ttft=2s", "mlperf-gpt2"]
)
def test_refused(text: str) -> None:
    with pytest.raises(BadInput, match="slo: got"):
        parse_slo(text)


def test_met() -> None:
    """The record's first token came after 500 ms, each other one after 167 ms, the last after 1 s."""
    assert parse_slo("ttft=500ms,tpot=170ms,e2el=1s").met_by(RECORD)
    assert not parse_slo("ttft=499ms").met_by(RECORD)
    assert not parse_slo("ttft=1s,tpot=160ms").met_by(RECORD)
    assert not parse_slo("ttft=1s").met_by(FAILED)
    one = replace(RECORD, times=(1.5,), tokens=(1,), output_tokens=1)
    assert parse_slo("tpot=1ms").met_by(one)  # nothing came after the first


def test_presets_have_both_limits() -> None:
    assert all(set(limits) == {"ttft", "tpot"} for limits in PRESETS.values())
