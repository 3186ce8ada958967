"""A row says what happened: counted by hand on made-up records."""

from __future__ import annotations

import pytest

from secateur.bench.load.journal import GeneratorStats, StageNote
from secateur.bench.load.record import EngineTimings, Phase, RequestRecord
from secateur.bench.metrics.comparison import compare
from secateur.bench.metrics.row import arrays, curves, result_row

CLOSED = {"kind": "closed", "label": "concurrency 1", "concurrency": 1}


def answered(
    index: int,
    sent: float,
    *,
    step: float = 0.1,
    phase: Phase = Phase.MEASURED,
    round_: int = 0,
    model: str = "m",
) -> RequestRecord:
    """Four tokens, `step` seconds apart, the first after one step."""
    times = tuple(sent + step * (place + 1) for place in range(4))
    engine = EngineTimings(0.0, 0.9e3 * step, 2.7e3 * step)
    return RequestRecord(
        0, round_, model, index, phase, sent, sent, times, (1,) * 4, times[-1], 10, 4, 0, engine
    )


def test_a_steady_closed_loop() -> None:
    records = [answered(0, 0.0, phase=Phase.WARMUP), answered(1, 0.4), answered(2, 0.8)]
    found = result_row(CLOSED, "concurrency 1", "m", records, {"ttft": 150})
    assert (found["completed"], found["failed"], found["warmup_requests"]) == (2, 0, 1)
    assert found["duration"] == pytest.approx(0.8)
    assert found["output_throughput"] == pytest.approx(10)
    assert found["request_throughput"] == pytest.approx(2.5) == pytest.approx(found["request_goodput"])
    assert found["median_ttft_ms"] == pytest.approx(100) == pytest.approx(found["median_tpot_ms"])
    assert found["median_e2el_ms"] == pytest.approx(400)
    assert found["engine"]["added_to_ttft_ms"] == pytest.approx(10)
    assert found["engine"]["median_tpot_ms"] == pytest.approx(90)


def test_throughput_counts_what_came_meanwhile() -> None:
    """A warm-up request that ends in the window counts by its share, one that is cut off likewise."""
    warm = answered(0, 0.0, phase=Phase.WARMUP)
    cut = RequestRecord(
        0, 0, "m", 2, Phase.COOLDOWN, 0.5, 0.5, (0.55, 0.58), (1, 1), 0.6, 10, 2, error="CANCELLED"
    )
    found = result_row(CLOSED, "", "m", [warm, answered(1, 0.2), cut], None)
    # After 0.2, up to 0.6.
    assert found["total_output_tokens"] == 2 + 4 + 2
    assert found["request_throughput"] == pytest.approx((2 / 4 + 1 + 2 / 4) / 0.4)


def test_goodput_is_of_those_within_the_limits() -> None:
    records = [answered(0, 0.0), answered(1, 0.4, step=0.2)]
    found = result_row(CLOSED, "", "m", records, {"tpot": 150})
    assert found["request_goodput"] == pytest.approx(found["request_throughput"] / 2)
    assert result_row(CLOSED, "", "m", records, None)["request_goodput"] is None


def test_a_busy_generator_is_said() -> None:
    found = result_row(
        CLOSED, "", "m", [answered(0, 0.0)], None, [GeneratorStats(0, 0, "m", 1.0, 0.9, 4, 0.1, 8.0)]
    )
    assert found["generator"]["cpu_share"] == 0.9
    assert any("load generator used 90%" in note for note in found["notes"])


def arrived(count: int, *, growth: float, round_: int = 0, delay: float = 0.1) -> list[RequestRecord]:
    """A request every 100 ms, each answered `growth` seconds later than the one before was."""
    waits = [delay + growth * place for place in range(count)]
    return [
        RequestRecord(
            *(0, round_, "m", place, Phase.MEASURED, 0.1 * place, 0.1 * place),
            *((0.1 * place + wait,), (1,), 0.1 * place + wait, 10, 1),
        )
        for place, wait in enumerate(waits)
    ]


@pytest.mark.parametrize(
    ("records", "kinds", "expected"),
    [
        (arrived(60, growth=0.05), (), True),
        (arrived(60, growth=0.05) + arrived(60, growth=0.05, round_=1), (), True),
        (arrived(4, growth=0.05), (), False),  # too few
        (arrived(29, growth=0.05), (), False),
        (arrived(60, growth=0.05), ("INTERRUPTED",), False),
        (arrived(60, growth=0.05), ("GAVE_UP",), False),
        (arrived(60, growth=0.0), (), False),  # 10 came, whatever the nominal rate
        (arrived(60, growth=0.0, delay=3.0), (), False),  # slow, but it keeps up
        (arrived(60, growth=0.0) + arrived(60, growth=0.0, round_=1, delay=3.0), (), False),
    ],
)
def test_overload_is_said_where_it_shows(
    records: list[RequestRecord], kinds: tuple[str, ...], expected: bool
) -> None:
    load = {"kind": "open", "label": "rate 20/s", "rate": 20.0}
    notes = [StageNote(0, 0, "m", kind, "") for kind in kinds]
    said = [
        note for note in result_row(load, "", "m", records, None, (), notes)["notes"] if "overloaded" in note
    ]
    assert [note.partition(" were")[0].partition(",")[0] for note in said] == (
        ["overloaded: 10.00 requests/s came"] if expected else []
    )


def test_arrays_and_curves() -> None:
    failed = RequestRecord(
        0, 0, "m", 1, Phase.MEASURED, 0.5, 0.6, (), (), 0.7, 10, 0, error="UNAVAILABLE", message="x"
    )
    found = arrays([answered(0, 0.0), failed, answered(2, 1.0, phase=Phase.WARMUP)])
    assert found["output_lens"] == [4, 0] and found["input_lens"] == [10, 10]
    assert found["ttfts"] == pytest.approx([0.1, 0.0]) and found["queue_times"] == pytest.approx([0.0, 0.1])
    assert found["itls"] == [pytest.approx([0.1] * 3), []] and found["errors"] == ["", "UNAVAILABLE: x"]
    lines = curves([answered(0, 0.0), answered(1, 0.4, step=0.2), failed])
    assert lines["ttft"][0] == pytest.approx(100) and lines["ttft"][-1] == pytest.approx(200)


def test_nothing_was_answered() -> None:
    failed = RequestRecord(
        0, 0, "m", 1, Phase.MEASURED, 0.5, 0.5, (), (), 0.7, 10, 0, error="UNAVAILABLE", message="x"
    )
    found = result_row(CLOSED, "", "m", [failed], None)
    assert (found["completed"], found["failed"], found["output_throughput"]) == (0, 1, 0.0)
    assert "median_ttft_ms" not in found


def test_compared_round_by_round() -> None:
    records = []
    for number, drift in enumerate((1.0, 1.5, 0.8, 1.2)):
        for model, speed in (
            ("dense", 1.0),
            ("slim", 0.5 + 0.002 * number),
            ("same", 1.0 + 0.01 * (-1) ** number),
        ):
            for place in range(3):
                step = 0.1 * drift * speed
                records.append(answered(place, place * 4 * step, step=step, round_=number, model=model))
    found = compare(records, "dense", "slim")
    assert found["rounds"] == 4
    assert found["ratios"]["median_tpot_ms"]["ratio"] == pytest.approx(0.503, abs=0.001)
    assert found["ratios"]["median_tpot_ms"]["differ"] is True
    assert found["ratios"]["output_throughput"]["ratio"] == pytest.approx(1 / 0.503, rel=0.01)
    same = compare(records, "dense", "same")["ratios"]["median_ttft_ms"]
    assert same["differ"] is False and same["verdict"] == "no difference beyond noise"
