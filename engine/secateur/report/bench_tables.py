"""A benchmark as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

DASH = "–"
ENGINE = ("median_queue_ms", "median_prefill_ms", "median_tpot_ms", "added_to_ttft_ms", "added_to_tpot_ms")
_SIZES = (
    ("parameters", "parameters"),
    ("weight bytes", "weight_bytes"),
    ("KV bytes per token", "kv_bytes_per_token"),
)
_COMPARED = {
    "median_ttft_ms": "time to first token",
    "median_tpot_ms": "time per token",
    "median_e2el_ms": "end to end",
    "output_throughput": "tokens per second",
}


def bench_tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """Results, then what of the engine and what of the rest, then comparisons, models and remarks."""
    results = document["results"]
    if not results:
        return
    yield _results(results)
    if any(row.get("engine") for row in results):
        yield _engine([row for row in results if row.get("engine")])
    for comparison in _pairs(document["comparison"]):
        yield _comparison(comparison)
    if any(model["parameters"] or model["perplexity"] for model in document["models"]):
        yield _models(document["models"])
    if remarks := [(row, note) for row in results for note in row["notes"]]:
        yield _remarks(remarks)


def _results(results: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="median ± half its 95 % interval / p99, milliseconds", title_justify="left")
    goodput = any(row["request_goodput"] is not None for row in results)
    table.add_column("load")
    table.add_column("model")
    for name in ("requests", "first token", "per token", "end to end", "tokens/s", "requests/s"):
        table.add_column(name, justify="right")
    if goodput:
        table.add_column("good/s", justify="right")
    for row in results:
        cells = [row["label"], row["model"], _count(row)]
        cells += [_time(row, metric) for metric in ("ttft", "tpot", "e2el")]
        cells += [f"{row['output_throughput']:.1f}", f"{row['request_throughput']:.2f}"]
        table.add_row(*cells, *([f"{row['request_goodput']:.2f}"] if goodput else []))
    return table


def _count(row: Mapping[str, Any]) -> str:
    failed = f", {row['failed']} failed" if row["failed"] else ""
    return f"{row['completed']}{failed}"


def _time(row: Mapping[str, Any], metric: str) -> str:
    middle = row.get(f"median_{metric}_ms")
    if middle is None:
        return DASH
    interval = row["intervals"].get(f"median_{metric}_ms")
    around = f" ±{number((interval[1] - interval[0]) / 2)}" if interval else ""
    return f"{number(middle)}{around} / {number(row[f'p99_{metric}_ms'])}"


def _engine(results: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="the engine's own medians, and what is added to them, ms", title_justify="left")
    table.add_column("load")
    table.add_column("model")
    for name in ("queue", "prefill", "per token", "added to first token", "added per token"):
        table.add_column(name, justify="right")
    for row in results:
        engine = row["engine"]
        keys = (
            "median_queue_ms",
            "median_prefill_ms",
            "median_tpot_ms",
            "added_to_ttft_ms",
            "added_to_tpot_ms",
        )
        table.add_row(row["label"], row["model"], *(number(engine.get(key)) for key in keys))
    return table


def _pairs(comparisons: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Comparisons of the same two models together."""
    pairs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in comparisons:
        pairs.setdefault((one["first"], one["second"]), []).append(one)
    return list(pairs.values())


def _comparison(comparisons: Sequence[Mapping[str, Any]]) -> Table:
    first, second, rounds = (comparisons[0][key] for key in ("first", "second", "rounds"))
    table = Table(title=f"{second} / {first}, {rounds} rounds in turns [95 % interval]", title_justify="left")
    table.add_column("load")
    for name in _COMPARED.values():
        table.add_column(name, justify="right")
    for one in comparisons:
        table.add_row(one["label"], *(_ratio(one["ratios"].get(key)) for key in _COMPARED))
    return table


def _ratio(ratio: Mapping[str, Any] | None) -> str:
    if ratio is None:
        return DASH
    if ratio["interval"] is None:
        return f"{ratio['ratio']:.3f}, too few rounds"
    low, high = ratio["interval"]
    ratio_text = f"{ratio['ratio']:.3f} [{low:.3f}, {high:.3f}]"
    return ratio_text if ratio["differ"] else f"{ratio_text}: no difference"


def _models(models: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="what it costs", title_justify="left")
    table.add_column("")
    corpora = list(dict.fromkeys(corpus for model in models for corpus in model["perplexity"]))
    for model in models:
        table.add_column(model["name"], justify="right")
    rows = (
        ("parameters", "parameters"),
        ("weight bytes", "weight_bytes"),
        ("KV bytes per token", "kv_bytes_per_token"),
    )
    for label, key in rows:
        table.add_row(label, *(DASH if m[key] is None else f"{m[key]:,}" for m in models))
    for corpus in corpora:
        values = [model["perplexity"].get(corpus) for model in models]
        table.add_row(f"perplexity, {corpus}", *(DASH if v is None else f"{v:.2f}" for v in values))
    return table


def _remarks(remarks: Sequence[tuple[Mapping[str, Any], str]]) -> Table:
    table = Table(title="to know before believing it", title_justify="left")
    for name in ("load", "model", ""):
        table.add_column(name)
    for row, note in remarks:
        table.add_row(row["label"], row["model"], note)
    return table


def number(value: float | None) -> str:
    """Three significant digits; all of those before the point."""
    if value is None:
        return DASH
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
