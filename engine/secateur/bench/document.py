"""The result of a benchmark as one JSON document, made from its log alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.bench.load.journal import BenchmarkLog
from secateur.bench.load.record import RequestRecord
from secateur.bench.metrics.comparison import compare
from secateur.bench.metrics.row import arrays, curves, result_row
from secateur.bench.metrics.slo import LatencySlo

DEFINITIONS = {
    "ttft": "from when a request should have been sent to its first message with tokens",
    "tpot": "tpot_excl_first: from first to last message, over the tokens after the first; per request",
    "itl": "between two messages with tokens; all requests together",
    "e2el": "from when a request should have been sent to its last token",
    "queue": "from when a request should have been sent to when it was, part of ttft and e2el",
    "throughput": "of everything that came between the first measured request and the end of the last one",
    "goodput": "requests per second that were answered within every limit of the SLO",
    "intervals": "95 %, block bootstrap over requests; in comparisons Student's t over rounds",
    "added": "the client's value less the engine's: transport, server and client",
}
RAMP_SLICES = 6


def benchmark_document(log: BenchmarkLog, *, raw: bool = False) -> dict[str, Any]:
    """Describe a benchmark, finished or not.

    Args:
        raw: with the values of every request.
    """
    header = log.header
    options = header["options"]
    slo = LatencySlo(options["slo"]) if options["slo"] else None
    results = [_result(log, *row, slo, raw) for row in _result_rows(log)]
    seconds = max((record.ended for record in log.records), default=0.0)
    return {
        "benchmark": {
            "date": header["environment"]["date"],
            "seconds": {"total": round(seconds, 3)},
            "interrupted": any(note.kind == "INTERRUPTED" for note in log.notes),
            "gave_up": any(note.kind == "GAVE_UP" for note in log.notes),
            "requests": len(log.records),
        },
        "options": options,
        "targets": header["targets"],
        "definitions": DEFINITIONS,
        "environment": header["environment"],
        "models": header["models"],
        "results": results,
        "comparison": _comparison(log),
    }


ResultRows = tuple[Mapping[str, Any], str, str, list[RequestRecord], int]


def _result_rows(log: BenchmarkLog) -> list[ResultRows]:
    """Load, label, model, records and number of every row; a ramp has several."""
    rows: list[ResultRows] = []
    loads = _loads(log)
    for number in sorted({record.stage for record in log.records}):
        load = loads[number]
        for model in log.header["labels"]:
            model_records = [r for r in log.records if r.stage == number and r.model == model]
            if not model_records:
                continue
            for label, part in _time_slices(load, model_records):
                rows.append((load, label, model, part, number))
    return rows


def _loads(log: BenchmarkLog) -> Mapping[int, Mapping[str, Any]]:
    return {began.stage: began.load for began in log.stages}


def _result(
    log: BenchmarkLog,
    load: Mapping[str, Any],
    label: str,
    model: str,
    records: Sequence[RequestRecord],
    number: int,
    slo: LatencySlo | None,
    raw: bool,
) -> dict[str, Any]:
    def here(entry: Any) -> bool:
        return bool(entry.stage == number and entry.model == model)

    described = result_row(
        load,
        label,
        model,
        records,
        slo,
        [one for one in log.generators if here(one)],
        [note for note in log.notes if here(note)],
    )
    return described | ({"curves": curves(records)} | arrays(records) if raw else {})


def _time_slices(
    load: Mapping[str, Any], records: Sequence[RequestRecord]
) -> list[tuple[str, list[RequestRecord]]]:
    """A ramp in slices of time; anything else whole."""
    if load["kind"] != "ramp":
        return [(load["label"], list(records))]
    begin = min(record.intended for record in records)
    span = max(record.intended for record in records) - begin or 1.0
    slices: list[list[RequestRecord]] = [[] for _ in range(RAMP_SLICES)]
    for record in records:
        slices[min(int((record.intended - begin) / span * RAMP_SLICES), RAMP_SLICES - 1)].append(record)
    step = (load["to_rate"] - load["rate"]) / RAMP_SLICES
    return [
        (f"ramp, {load['rate'] + index * step:.3g} to {load['rate'] + (index + 1) * step:.3g}/s", part)
        for index, part in enumerate(slices)
        if part
    ]


def _comparison(log: BenchmarkLog) -> list[dict[str, Any]]:
    labels = log.header["labels"]
    loads = _loads(log)
    comparisons = []
    for number in sorted({record.stage for record in log.records}):
        records = [record for record in log.records if record.stage == number]
        for other in labels[1:]:
            if {record.model for record in records} >= {labels[0], other}:
                comparisons.append({"label": loads[number]["label"], **compare(records, labels[0], other)})
    return comparisons
