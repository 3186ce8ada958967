"""One row of a report: a model under one load, with the keys of `vllm bench serve` where it has such.

Definitions (docs/benchmarking.md): times count from when a request should have been sent; `tpot` leaves out
the tokens of the first message; `itl` is between messages; `e2el` ends with the last token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from secateur.bench.load.generator import CANCELLED
from secateur.bench.load.journal import GeneratorStats, StageNote
from secateur.bench.load.record import Phase, RequestRecord
from secateur.bench.metrics.statistics import DistributionSummary, summarise

METRICS: Mapping[str, Callable[[RequestRecord], list[float]]] = {
    "ttft": lambda record: [record.ttft_ms],
    "tpot": lambda record: [] if record.tpot_ms is None else [record.tpot_ms],
    "itl": lambda record: record.itls_ms,
    "e2el": lambda record: [record.e2e_ms],
    "queue": lambda record: [record.queue_ms],
}
STATISTICS = ("mean", "median", "std", "p90", "p95", "p99")


def result_row(
    load: Mapping[str, Any],
    label: str,
    model: str,
    records: Sequence[RequestRecord],
    slo: Mapping[str, float] | None,
    generators: Sequence[GeneratorStats] = (),
    notes: Sequence[StageNote] = (),
) -> dict[str, Any]:
    """Describe what one model did under one load.

    Args:
        load: its description.
        label: its name.
        records: of all phases and rounds.
        slo: what a good request reaches: milliseconds by metric.
        generators: how the load generator was meanwhile.
        notes: what happened meanwhile.
    """
    measured = sorted((r for r in records if r.phase is Phase.MEASURED), key=lambda r: (r.round, r.intended))
    good = [record for record in measured if record.ok]
    failures = Counter(r.error for r in measured if r.error not in ("", CANCELLED))
    described: dict[str, Any] = {
        "label": label,
        "load": dict(load),
        "model": model,
        "rounds": len({record.round for record in measured}),
        "completed": len(good),
        "failed": sum(failures.values()),
        "unfinished": sum(record.error == CANCELLED for record in measured),
        "failures": dict(failures.most_common()),
        "warmup_requests": sum(record.phase is Phase.WARMUP for record in records),
        **throughput(records, slo),
    }
    if good:
        described |= _distributions(good, int(load.get("concurrency") or 1))
        described["engine"] = _engine(good)
        described["cached_prompt_tokens"] = _cached(good)
    described["generator"] = _generator(generators)
    described["notes"] = [note.text for note in notes] + observations(described, measured, notes)
    return described


def meets_slo(record: RequestRecord, slo: Mapping[str, float]) -> bool:
    """True for a whole answer within all limits; an answer of one message has no time per token."""
    if not record.ok:
        return False
    reached = {"ttft": record.ttft_ms, "tpot": record.tpot_ms or 0.0, "e2el": record.e2e_ms}
    return all(reached[metric] <= limit for metric, limit in slo.items())


def throughput(records: Sequence[RequestRecord], slo: Mapping[str, float] | None) -> dict[str, Any]:
    """What came out per second, from the first measured request to the end of the last one.

    Counted are all tokens that came meanwhile, also those of requests that began before or ended after: that
    is what the server did in that time. A request counts by the share of its answer that came meanwhile.
    """
    seconds, requests, tokens, prompts, within, peak_concurrency = 0.0, 0.0, 0, 0.0, 0.0, 0
    usual = _usual_length(records)
    for begin, end, inside in windows(records):
        seconds += end - begin
        for record in inside:
            tokens_in_window = _tokens_between(record, begin, end)
            tokens += tokens_in_window
            if record.error not in ("", CANCELLED):
                continue
            share = tokens_in_window / (record.output_tokens if record.ok else usual or 1)
            requests += share
            prompts += share * record.prompt_tokens
            within += share * (slo is not None and meets_slo(record, slo))
        peak_concurrency = max(peak_concurrency, _peak_concurrency(inside, begin, end))
    per_second = 1 / seconds if seconds else 0.0
    return {
        "duration": round(seconds, 6),
        "total_input_tokens": round(prompts),
        "total_output_tokens": tokens,
        "request_throughput": requests * per_second,
        "output_throughput": tokens * per_second,
        "total_token_throughput": (tokens + prompts) * per_second,
        "request_goodput": None if slo is None else within * per_second,
        "max_concurrent_requests": peak_concurrency,
    }


def _tokens_between(record: RequestRecord, begin: float, end: float) -> int:
    """Tokens of a request that arrived between two times."""
    return sum(count for at, count in zip(record.times, record.tokens, strict=True) if begin < at <= end)


def _usual_length(records: Sequence[RequestRecord]) -> float:
    """Of an answer: what that of a request which was cancelled with the stage would have been."""
    lengths = [record.output_tokens for record in records if record.ok]
    return float(np.mean(lengths)) if lengths else 0.0


def windows(records: Sequence[RequestRecord]) -> list[tuple[float, float, list[RequestRecord]]]:
    """Per round: from the first measured request to the end of the last, and all records of the round."""
    round_windows = []
    for number in sorted({record.round for record in records}):
        inside = [record for record in records if record.round == number]
        measured = [record for record in inside if record.phase is Phase.MEASURED]
        if measured:
            round_windows.append((min(r.sent for r in measured), max(r.ended for r in measured), inside))
    return round_windows


def arrays(records: Sequence[RequestRecord]) -> dict[str, Any]:
    """Raw values of every measured request, with the keys and units (seconds) of `vllm bench serve`."""
    measured = sorted((r for r in records if r.phase is Phase.MEASURED), key=lambda r: r.index)
    return {
        "input_lens": [r.prompt_tokens for r in measured],
        "output_lens": [r.output_tokens if r.ok else 0 for r in measured],
        "ttfts": [round(r.ttft_ms / 1e3, 6) if r.times else 0.0 for r in measured],
        "itls": [[round(gap / 1e3, 6) for gap in r.itls_ms] for r in measured],
        "latencies": [round(r.e2e_ms / 1e3, 6) if r.times else 0.0 for r in measured],
        "start_times": [round(r.sent, 6) for r in measured],
        "queue_times": [round(r.queue_ms / 1e3, 6) for r in measured],
        "errors": [f"{r.error}: {r.message}" if r.error else "" for r in measured],
    }


CURVE = (*range(0, 91, 5), 92, 94, 95, 96, 97, 98, 99, 100)


def curves(records: Sequence[RequestRecord]) -> dict[str, list[float]]:
    """Percentiles of the latencies, for drawing."""
    good = [record for record in records if record.ok and record.phase is Phase.MEASURED]
    curves_by_metric: dict[str, list[float]] = {"percentiles": [float(percentile) for percentile in CURVE]}
    for metric in ("ttft", "tpot", "e2el"):
        values = [value for record in good for value in METRICS[metric](record)]
        curves_by_metric[metric] = (
            [round(float(v), 4) for v in np.percentile(values, CURVE)] if values else []
        )
    return curves_by_metric


def _distributions(good: Sequence[RequestRecord], block: int) -> dict[str, Any]:
    distributions: dict[str, Any] = {}
    intervals: dict[str, list[float]] = {}
    for metric, read in METRICS.items():
        summary = summarise([read(record) for record in good], block)
        for statistic in STATISTICS:
            distributions[f"{statistic}_{metric}_ms"] = _rounded(summary, statistic)
        if summary is not None:
            for statistic, interval in summary.intervals.items():
                intervals[f"{statistic}_{metric}_ms"] = [round(interval.low, 4), round(interval.high, 4)]
    return distributions | {"intervals": intervals}


def _rounded(summary: DistributionSummary | None, statistic: str) -> float | None:
    return None if summary is None else round(float(getattr(summary, statistic)), 4)


def _engine(good: Sequence[RequestRecord]) -> dict[str, float] | None:
    """The engine's own medians, and what client and transport add to them."""
    with_engine_timings = [record for record in good if record.engine is not None]
    if not with_engine_timings:
        return None
    first = [
        (r.ttft_ms - r.queue_ms, r.engine.queue_ms + r.engine.prefill_ms)
        for r in with_engine_timings
        if r.engine
    ]
    steps = [
        (r.tpot_ms, r.engine.decode_ms / (r.output_tokens - r.tokens[0]))
        for r in with_engine_timings
        if r.engine and r.tpot_ms is not None
    ]
    engine_medians = {
        "median_queue_ms": _median([r.engine.queue_ms for r in with_engine_timings if r.engine]),
        "median_prefill_ms": _median([r.engine.prefill_ms for r in with_engine_timings if r.engine]),
        "median_ttft_ms": _median([engine for _, engine in first]),
        "added_to_ttft_ms": _median([client - engine for client, engine in first]),
    }
    if steps:
        engine_medians["median_tpot_ms"] = _median([engine for _, engine in steps])
        engine_medians["added_to_tpot_ms"] = _median([client - engine for client, engine in steps])
    return engine_medians


def _cached(good: Sequence[RequestRecord]) -> int | None:
    cached_token_counts = [record.cached_tokens for record in good if record.cached_tokens is not None]
    return sum(cached_token_counts) if cached_token_counts else None


def _generator(generators: Sequence[GeneratorStats]) -> dict[str, float] | None:
    if not generators:
        return None
    seconds = sum(one.seconds for one in generators)
    return {
        "cpu_share": round(sum(one.cpu_seconds for one in generators) / seconds, 4) if seconds else 0.0,
        "messages_per_second": round(sum(one.messages for one in generators) / seconds, 2)
        if seconds
        else 0.0,
        "lag_p50_ms": max(one.lag_p50_ms for one in generators),
        "lag_p99_ms": max(one.lag_p99_ms for one in generators),
    }


MAX_GENERATOR_LOAD = 0.8
SLOWDOWN_RATIO = 1.5
MIN_ACHIEVED_RATE = 0.9
MIN_TREND_REQUESTS = 30
"""Requests of an open loop; how fewer arrived and were answered is chance."""


def observations(
    described: Mapping[str, Any], measured: Sequence[RequestRecord], notes: Sequence[StageNote] = ()
) -> list[str]:
    """What somebody who reads the row must know before believing it."""
    remarks = []
    if described["failed"]:
        codes = ", ".join(f"{count} {code}" for code, count in described["failures"].items())
        remarks.append(f"{described['failed']} of {len(measured)} requests failed: {codes}")
    if described["unfinished"]:
        remarks.append(f"{described['unfinished']} requests were not finished when the stage was over")
    if slower := _slowed_down(measured):
        remarks.append(
            f"slowed down {slower:.1f} times in mid-run: median latency of the last third over the first"
        )
    generator = described["generator"]
    if generator and generator["cpu_share"] > MAX_GENERATOR_LOAD:
        remarks.append(
            f"the load generator used {generator['cpu_share']:.0%} of a core: it may be what was measured"
        )
    whole = not any(note.kind in ("INTERRUPTED", "GAVE_UP") for note in notes)
    if described["load"]["kind"] == "open" and described["completed"] >= MIN_TREND_REQUESTS and whole:
        arrival_rate, served = _arrival_rate(measured), described["request_throughput"]
        if served < MIN_ACHIEVED_RATE * arrival_rate and _queue_grew(measured):
            remarks.append(
                f"overloaded: {arrival_rate:.2f} requests/s came, {served:.2f} were answered: "
                "the longer, the slower"
            )
    return remarks


def _slowed_down(measured: Sequence[RequestRecord]) -> float | None:
    """By how much, of a closed loop's requests that were answered."""
    good = sorted((r for r in measured if r.ok), key=lambda r: r.sent)
    third = len(good) // 3
    if third < 4:
        return None
    first, last = (
        float(np.median([r.e2e_ms / max(r.output_tokens, 1) for r in part]))
        for part in (good[:third], good[-third:])
    )
    return last / first if last > SLOWDOWN_RATIO * first else None


def _arrival_rate(measured: Sequence[RequestRecord]) -> float:
    """Requests that really arrived: in a short open loop chance makes them more or fewer than its rate."""
    arrivals = [[r.intended for r in part] for part in _by_round(measured)]
    seconds = sum(part[-1] - part[0] for part in arrivals)
    return sum(len(part) - 1 for part in arrivals) / seconds if seconds else 0.0


def _queue_grew(measured: Sequence[RequestRecord]) -> bool:
    """Whether those who came late in their round waited much longer than those who came early."""
    early: list[float] = []
    late: list[float] = []
    for part in _by_round([record for record in measured if record.ok]):
        third = len(part) // 3
        early += [record.ttft_ms for record in part[:third]]
        late += [record.ttft_ms for record in part[len(part) - third :]]
    return bool(early) and float(np.median(late)) > SLOWDOWN_RATIO * float(np.median(early))


def _by_round(measured: Sequence[RequestRecord]) -> list[list[RequestRecord]]:
    """In the order in which they came."""
    rounds = sorted({record.round for record in measured})
    return [sorted((r for r in measured if r.round == n), key=lambda r: r.intended) for n in rounds]


def _peak_concurrency(records: Sequence[RequestRecord], begin: float, end: float) -> int:
    changes = sorted(
        [(r.sent, 1) for r in records if r.sent <= end] + [(r.ended, -1) for r in records if r.sent <= end]
    )
    peak = now = 0
    for at, change in changes:
        now += change
        if begin <= at <= end:
            peak = max(peak, now)
    return peak


def _median(values: Sequence[float]) -> float:
    return round(float(np.median(values)), 4)
