"""The front: every pair by what it keeps and what it loses, who is beaten by nobody, and the budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from secateur.report.svg import (
    Scale,
    axes,
    legend,
    marker,
    number,
    padded_range,
    staircase,
    svg_document,
    tag,
    text,
    tooltip,
)

WIDTH, HEIGHT = 1080.0, 400.0
TOP, BOTTOM = 56.0, 340.0
_LOSSES = (
    ("kl", "KL to the dense model, nats per token"),
    ("perplexity_ratio", "perplexity, times the dense model's"),
)

Point = Mapping[str, Any]


def draw_front(data: Mapping[str, Any], kind: str, best: Mapping[str, str]) -> str:
    """Two plots side by side, KL and perplexity against the fraction kept.

    Args:
        data: ``figures.front`` of the document.
        kind: of cost.
        best: id of the best pair, by goal.
    """
    points_with_value = [
        (key, title) for key, title in _LOSSES if all(point[key] is not None for point in data["points"])
    ]
    wide = WIDTH / len(points_with_value)
    plots = [
        _plot(data, kind, best, key, title, (70 + index * wide, (index + 1) * wide - 24))
        for index, (key, title) in enumerate(points_with_value)
    ]
    entries = [
        (partial(marker, "circle", size=3.5, class_="pair"), "every pair"),
        (partial(marker, "circle", size=4.5, class_="on-front"), "on the front"),
        (partial(marker, "circle", size=7.5, class_="ring"), "best of a goal"),
    ]
    return svg_document(WIDTH, HEIGHT, "Pareto front of cost and loss", legend(70, 16, entries), *plots)


def _plot(
    data: Mapping[str, Any],
    kind: str,
    best: Mapping[str, str],
    key: str,
    title: str,
    span: tuple[float, float],
) -> str:
    points, cost = data["points"], data["costs"][kind]
    edges = [limit["kept"] for limit in cost["limits"]]
    x = Scale(*padded_range([*edges, *(point["kept"][kind] for point in points)], margin=0.03), *span)
    y = Scale(*_ends(points, set(cost["front"]), key), BOTTOM, TOP, log=True)
    beyond = sum(point[key] > y.high for point in points)
    note = f" ({beyond} beyond the top)" if beyond else ""
    x_title = f"fraction kept of {cost['unit']}"
    parts = [axes(x, y, x_title, title + note, y_format=number)]
    parts += [_limit(x, limit) for limit in cost["limits"]]
    order = {identity: rank for rank, identity in enumerate(cost["front"])}
    quiet = [point for point in points if point["id"] not in order]
    ahead = sorted((point for point in points if point["id"] in order), key=lambda point: order[point["id"]])
    position = partial(_place, x, y, kind, key)
    parts += [_mark(point, position(point), kind, 3.5, "pair") for point in quiet]
    if key == "kl":
        parts.append(staircase([position(point) for point in ahead], class_="front-line"))
    parts += [_mark(point, position(point), kind, 4.5, "on-front") for point in ahead]
    chosen = set(best.values())
    for point in points:
        if point["id"] in chosen:
            at_x, at_y = position(point)
            parts.append(marker("circle", at_x, at_y, 7.5, class_="ring"))
    return tag("g", "".join(parts))


def _ends(points: Sequence[Point], front: set[str], key: str) -> tuple[float, float]:
    """All pairs that a search proposed and the front; a single cut that ruins the model may lie beyond."""
    main = [point[key] for point in points if point["round"] > 0 or point["id"] in front]
    min_value = min(point[key] for point in points)
    return padded_range([max(min_value, 1e-7), max(*main, min_value)], log=True)


def _place(x: Scale, y: Scale, kind: str, key: str, point: Point) -> tuple[float, float]:
    return x(point["kept"][kind]), y(max(point[key], y.low))


def _mark(point: Point, position: tuple[float, float], kind: str, size: float, style: str) -> str:
    return marker(
        "circle", *position, size, tooltip(described(point, kind)), class_=style, data_id=point["id"]
    )


def described(point: Point, kind: str) -> str:
    ratio = point["perplexity_ratio"]
    lines = [
        f"{point['origin']}, " + (f"round {point['round']}" if point["round"] else "for the table"),
        f"KL {point['kl']:.4f} ± {point['kl_stderr']:.4f}",
        f"kept {point['kept'][kind]:.2%}",
        *([f"perplexity × {ratio:.3f}"] if ratio is not None else []),
        f"id {point['id']}",
    ]
    return "\n".join(lines)


def _limit(x: Scale, limit: Mapping[str, Any]) -> str:
    at = x(limit["kept"])
    rule = tag("line", class_="limit", x1=at, x2=at, y1=TOP - 4, y2=BOTTOM)
    return rule + text(at + 4, TOP + 8, limit["goal"], class_="limit-name")
