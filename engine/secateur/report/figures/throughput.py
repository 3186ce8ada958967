"""Latency against throughput: one line per model and kind of load, a point per load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from secateur.report.svg import (
    SHAPES,
    Scale,
    axes,
    legend,
    line,
    marker,
    number,
    padded_range,
    svg_document,
    tag,
    text,
    tooltip,
)

WIDTH, HEIGHT = 1080.0, 400.0
TOP, BOTTOM = 60.0, 340.0
PLOTS = (("ttft", "time to first token, ms"), ("tpot", "time per token, ms"))


def draw_throughput(rows: Sequence[Mapping[str, Any]]) -> str:
    """Two plots side by side; marks are medians, whiskers reach to the 99th percentile.

    Args:
        rows: results that have latencies.
    """
    series = _series(rows)
    wide = WIDTH / len(PLOTS)
    parts = [
        _plot(series, metric, title, (70 + index * wide, (index + 1) * wide - 26))
        for index, (metric, title) in enumerate(PLOTS)
    ]
    entries = [
        (partial(marker, SHAPES[index % 4], size=4, class_=f"f{index % 7}"), f"{model}, {kind} loop")
        for index, (model, kind) in enumerate(series)
    ]
    return svg_document(WIDTH, HEIGHT, "Latency against throughput", legend(70, 16, entries), *parts)


Series = Mapping[tuple[str, str], list[Mapping[str, Any]]]


def _series(rows: Sequence[Mapping[str, Any]]) -> Series:
    series: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        series.setdefault((row["model"], row["load"]["kind"]), []).append(row)
    return series


def _plot(series: Series, metric: str, title: str, span: tuple[float, float]) -> str:
    rows = [
        row for model_rows in series.values() for row in model_rows if row[f"median_{metric}_ms"] is not None
    ]
    if not rows:
        return ""
    heights = [row[f"{statistic}_{metric}_ms"] for row in rows for statistic in ("median", "p99")]
    x = Scale(*padded_range([0.0, *(row["output_throughput"] for row in rows)], margin=0.03), *span)
    y = Scale(*padded_range([max(height, 1e-3) for height in heights], log=True), BOTTOM, TOP, log=True)
    parts = [axes(x, y, "output tokens per second", title, y_format=number)]
    for index, model_rows in enumerate(series.values()):
        shown = [row for row in model_rows if row in rows]
        points = [(x(row["output_throughput"]), y(row[f"median_{metric}_ms"])) for row in shown]
        parts.append(line(points, style=f"stroke:var(--c{index % 7});stroke-width:1.6") if points else "")
        for row, (at_x, at_y) in zip(shown, points, strict=True):
            far = y(row[f"p99_{metric}_ms"])
            whisker = {"style": f"stroke:var(--c{index % 7});stroke-opacity:.45"}
            parts.append(tag("line", x1=at_x, x2=at_x, y1=at_y, y2=far, **whisker))
            mark = tooltip(_described(row, metric))
            parts.append(marker(SHAPES[index % 4], at_x, at_y, 4.5, mark, class_=f"dot f{index % 7}"))
            parts.append(text(at_x + 6, at_y - 6, _short(row["load"]), class_="small"))
    return "".join(parts)


def _short(load: Mapping[str, Any]) -> str:
    return f"{load['concurrency']}" if load["kind"] == "closed" else f"{load.get('rate', '')}/s".lstrip("/")


def _described(row: Mapping[str, Any], metric: str) -> str:
    return (
        f"{row['model']}, {row['label']}\n{row['output_throughput']:.1f} tokens/s\n"
        f"median {row[f'median_{metric}_ms']:.3g} ms, p99 {row[f'p99_{metric}_ms']:.3g} ms"
    )
