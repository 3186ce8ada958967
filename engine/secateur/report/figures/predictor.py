"""The predictor against the truth: predicted and measured KL, and its rank correlation by round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from secateur.report.svg import (
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

WIDTH, HEIGHT = 1080.0, 420.0
TOP, BOTTOM = 56.0, 360.0
_SCATTER, _ROUNDS = (70.0, 500.0), (620.0, 1056.0)
_MEASURES = (
    ("tau", "Kendall's tau, cross-validated", "tau", "circle"),
    ("top_10_recall", "top-10 recall, cross-validated", "recall", "square"),
    ("proposals_tau", "tau on the round's own proposals", "own", "triangle"),
)


def draw_predictor(data: Mapping[str, Any]) -> str:
    """A scatter of KL and a chart by round.

    Args:
        data: ``figures.predictor`` of the document.
    """
    parts = []
    if data["points"]:
        parts.append(_scatter(data["points"], data["tau"]))
    if rounds := _judged(data["rounds"]):
        parts.append(_chart(rounds))
    return svg_document(WIDTH, HEIGHT, "Predictor against truth", *parts)


def has_predictions(data: Mapping[str, Any]) -> bool:
    """Whether there is anything to draw."""
    return bool(data["points"] or _judged(data["rounds"]))


def _judged(rounds: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rounds whose predictor was held to the truth in some way."""
    return [entry for entry in rounds if any(entry[key] is not None for key, *_ in _MEASURES)]


def _scatter(points: Sequence[Mapping[str, Any]], tau: float | None) -> str:
    """Predicted KL across, measured KL up; both logarithmic, the diagonal is a perfect prediction."""
    values = [math.exp(point[key]) for point in points for key in ("predicted", "measured")]
    ends = padded_range(values, log=True)
    x, y = Scale(*ends, *_SCATTER, log=True), Scale(*ends, BOTTOM, TOP, log=True)
    last = max(point["round"] for point in points)
    first = min(point["round"] for point in points)
    title = "measured KL" + (f"; tau {tau:.2f} over all proposals" if tau is not None else "")
    parts = [
        axes(x, y, "predicted KL, nats per token", title),
        line([(x.start, y.start), (x.stop, y.stop)], class_="diagonal"),
    ]
    for point in points:
        share = (point["round"] - first) / (last - first) if last > first else 1.0
        predicted, measured = math.exp(point["predicted"]), math.exp(point["measured"])
        words = (
            f"round {point['round']}\npredicted {predicted:.4f}\nmeasured {measured:.4f}\nid {point['id']}"
        )
        style = f"fill:color-mix(in oklab, var(--late) {share:.0%}, var(--early))"
        mark = marker(
            "circle",
            x(predicted),
            y(measured),
            4,
            tooltip(words),
            class_="dot",
            style=style,
            data_id=point["id"],
        )
        parts.append(mark)
    return "".join(parts) + _ramp(first, last)


def _ramp(first: int, last: int) -> str:
    """What the shades of the rounds mean."""
    boxes = [
        tag(
            "rect",
            x=_SCATTER[0] + 62 + index * 12,
            y=8,
            width=12,
            height=10,
            style=f"fill:color-mix(in oklab, var(--late) {index / 7:.0%}, var(--early))",
        )
        for index in range(8)
    ]
    start = text(_SCATTER[0], 17, f"round {first}", class_="key")
    end = text(_SCATTER[0] + 166, 17, f"round {last}", class_="key")
    return start + "".join(boxes) + end if last > first else start


def _chart(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Rank quality by round; the rivals of the chosen regressor as thin lines."""
    numbers = sorted({entry["round"] for entry in rounds})
    x = Scale(numbers[0] - 0.3, numbers[-1] + 0.3, *_ROUNDS)
    values = [entry[key] for entry in rounds for key, *_ in _MEASURES if entry[key] is not None]
    y = Scale(min(0.0, math.floor(min(values) * 5) / 5), 1.0, BOTTOM, TOP)
    every = max(1, math.ceil(len(numbers) / 12))
    parts = [axes(x, y, "round", "rank quality (1 is perfect)", str, number, numbers[::every])]
    for name in sorted({name for entry in rounds for name in entry["rivals"]}):
        path = [
            (x(entry["round"]), y(entry["rivals"][name]["tau"]))
            for entry in rounds
            if name in entry["rivals"]
        ]
        if len(path) > 1:
            parts.append(tag("g", tooltip(f"tau of {name}") + line(path, class_="rival"), class_="hover"))
    entries = []
    for key, words, style, shape in _MEASURES:
        rounds_with_value = [entry for entry in rounds if entry[key] is not None]
        if not rounds_with_value:
            continue
        if len(rounds_with_value) > 1:
            path = [(x(entry["round"]), y(entry[key])) for entry in rounds_with_value]
            parts.append(line(path, class_=f"line-{style}"))
        for entry in rounds_with_value:
            note = tooltip(f"round {entry['round']}, {entry['predictor']}\n{words} {entry[key]:.3f}")
            at = (x(entry["round"]), y(entry[key]))
            parts.append(marker(shape, *at, 4, note, class_=f"mark-{style}"))
        short = words.replace(", cross-validated", "")
        entries.append((partial(marker, shape, size=4, class_=f"mark-{style}"), short))
    return legend(_ROUNDS[0] - 44, 16, entries) + "".join(parts)
