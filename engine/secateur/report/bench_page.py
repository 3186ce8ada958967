"""The page of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.report.bench_tables import number
from secateur.report.figures.percentiles import draw_percentiles
from secateur.report.figures.throughput import draw_throughput
from secateur.report.page import render

RAW = (
    "input_lens",
    "output_lens",
    "ttfts",
    "itls",
    "latencies",
    "start_times",
    "queue_times",
    "errors",
)


def bench_page(document: Mapping[str, Any]) -> str:
    """The HTML of a benchmark's document with its curves; what it can be drawn from is in it as JSON too."""
    results = document["results"]
    answered = [row for row in results if row["completed"]]
    slim = {**document, "results": [_without_raw(row) for row in results]}
    return render(
        "bench.html.j2",
        document=slim,
        percentiles={label: draw_percentiles(rows) for label, rows in _by_label(answered).items()},
        throughput=draw_throughput(answered) if answered else None,
        protocol=_protocol(document),
        number=number,
    )


def _by_label(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    rows_by_label: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        rows_by_label.setdefault(row["label"], []).append(row)
    return rows_by_label


def _without_raw(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in RAW}


def _protocol(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    options, where = document["options"], document["environment"]
    lengths = f"{options['input_tokens']} tokens in, {options['output_tokens']} out"
    lengths += ", end of sequence ignored, greedy" if options["ignore_eos"] else ", greedy"
    if options["trace_requests"]:
        lengths = f"a trace of {options['trace_requests']} requests"
    extent = options["extent"]
    per_load = f"{extent['seconds']:g} s" if extent["seconds"] else f"{extent['requests']} requests"
    return [
        ("targets", ", ".join(f"{address} ({kind})" for address, kind in document["targets"].items())),
        ("requests", lengths),
        ("prompts", options["corpus"] or "random, no two alike: a prefix cache is of no use"),
        ("measured", f"{per_load} per load, {options['rounds']} round(s); warm-up not counted"),
        ("SLO", ", ".join(f"{k} {v:g} ms" for k, v in (options["slo"] or {}).items()) or "none"),
        ("machine", f"{where['device']}, {where['cores']} cores, load average {where['load_average'][0]}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in where["versions"].items())),
        ("commit", where["commit"] or "not recorded"),
        ("date", where["date"]),
    ]
