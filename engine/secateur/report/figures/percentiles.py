"""Percentile curves: how many requests were at least so fast, one line per model."""

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
    tooltip,
)

WIDTH, HEIGHT = 1080.0, 330.0
TOP, BOTTOM = 60.0, 270.0
TITLES = {
    "ttft": "time to first token, ms",
    "tpot": "time per token, ms",
    "e2el": "end to end, ms",
}
MARKED = (50.0, 90.0, 99.0)


def draw_percentiles(rows: Sequence[Mapping[str, Any]]) -> str:
    """Three plots side by side, for the rows of one load.

    Args:
        rows: with ``curves``: per metric the values at ``curves["percentiles"]``.
    """
    wide = WIDTH / len(TITLES)
    parts = []
    for index, (metric, title) in enumerate(TITLES.items()):
        if any(row["curves"][metric] for row in rows):
            parts.append(_plot(rows, metric, title, (66 + index * wide, (index + 1) * wide - 22)))
    entries = [
        (partial(marker, SHAPES[index % 4], size=4, class_=f"f{index % 7}"), row["model"])
        for index, row in enumerate(rows)
    ]
    return svg_document(WIDTH, HEIGHT, "Percentiles of latency", legend(66, 16, entries), *parts)


def _plot(rows: Sequence[Mapping[str, Any]], metric: str, title: str, span: tuple[float, float]) -> str:
    values = [value for row in rows for value in row["curves"][metric]]
    x = Scale(0.0, 100.0, *span)
    y = Scale(*padded_range([0.0, *values]), BOTTOM, TOP)
    parts = [axes(x, y, "percentile of requests", title, y_format=number, x_ticks=(0, 25, 50, 75, 90, 99))]
    for index, row in enumerate(rows):
        curve = list(zip(row["curves"]["percentiles"], row["curves"][metric], strict=False))
        points = [(x(percentile), y(value)) for percentile, value in curve]
        parts.append(line(points, style=f"stroke:var(--c{index % 7});stroke-width:1.8"))
        for percentile, value in curve:
            if percentile in MARKED:
                said = tooltip(f"{row['model']}\np{percentile:g}: {value:.3g} ms")
                at = (x(percentile), y(value))
                parts.append(marker(SHAPES[index % 4], *at, 4, said, class_=f"dot f{index % 7}"))
    return "".join(parts)
