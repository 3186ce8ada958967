"""The result of a benchmark as one JSON document, made from its log alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from secateur.bench.load.journal import BenchmarkLog
from secateur.bench.load.record import RequestRecord
from secateur.bench.metrics.comparison import compare
from secateur.bench.metrics.row import arrays, curves, result_row

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
    results = list(_results(log, raw))
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


def _results(log: BenchmarkLog, raw: bool) -> Iterator[dict[str, Any]]:
    """A row for every model under every load; of a ramp, several."""
    slo = log.header["options"]["slo"]
    for number, load in _loads(log).items():
        for model in log.header["labels"]:
            here = partial(_is_of, number, model)
            records = list(filter(here, log.records))
            for label, part in _time_slices(load, records) if records else ():
                notes, generators = filter(here, log.notes), filter(here, log.generators)
                row = result_row(load, label, model, part, slo, list(generators), list(notes))
                yield row | ({"curves": curves(part)} | arrays(part) if raw else {})


def _is_of(number: int, model: str, entry: Any) -> bool:
    return bool(entry.stage == number and entry.model == model)


def _loads(log: BenchmarkLog) -> dict[int, Mapping[str, Any]]:
    """The loads under which there are records, by the number of their stage."""
    numbers = {record.stage for record in log.records}
    return {header.stage: header.load for header in log.stages if header.stage in numbers}


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
    first, *others = log.header["labels"]
    comparisons = []
    for number, load in _loads(log).items():
        records = [record for record in log.records if record.stage == number]
        for other in others:
            if {record.model for record in records} >= {first, other}:
                comparisons.append({"label": load["label"], **compare(records, first, other)})
    return comparisons
