"""Progress: the KL of every evaluation in order, and the best so far of every goal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from secateur.report.svg import (
    SHAPES,
    Scale,
    axes,
    legend,
    marker,
    padded_range,
    staircase,
    svg_document,
    tag,
    text,
    tooltip,
)

WIDTH, HEIGHT = 1080.0, 420.0
TOP, BOTTOM = 68.0, 368.0
LEFT, RIGHT = 70.0, 980.0
COLOURS = 7
OTHER = "other"
LINE = 14.0  # between two names


def draw_progress(data: Mapping[str, Any]) -> str:
    """Points by who proposed them, rounds as bands.

    Args:
        data: ``figures.progress`` of the document; at least one point.
    """
    points = data["points"]
    x = Scale(0.0, len(points) + 1.0, LEFT, RIGHT)
    y = Scale(*padded_range([max(point["kl"], 1e-7) for point in points], log=True), BOTTOM, TOP, log=True)
    style_of = styles(point["family"] for point in points)
    titles = ("evaluations (single cuts not counted)", "KL, nats per token")
    parts = [_bands(points, x), axes(x, y, *titles, rise=28.0)]
    for point in points:
        colour, shape = style_of.get(point["family"], style_of.get(OTHER, (0, SHAPES[0])))
        outside = "" if point["fits"] else " outside"
        words = (
            f"evaluation {point['evaluation']}, round {point['round']}\n{point['origin']}\n"
            f"KL {point['kl']:.4f}\nid {point['id']}"
        )
        at = (x(point["evaluation"]), y(point["kl"]))
        mark = marker(shape, *at, 4, tooltip(words), class_=f"dot f{colour}{outside}", data_id=point["id"])
        parts.append(mark)
    parts += _best(data["best"], x, y)
    entries = [
        (partial(marker, shape, size=4, class_=f"dot f{colour}"), name)
        for name, (colour, shape) in style_of.items()
    ]
    return svg_document(WIDTH, HEIGHT, "Progress over evaluations", legend(LEFT, 16, entries), *parts)


def styles(families: Any) -> dict[str, tuple[int, str]]:
    """A colour and a shape for each who proposed, in order of appearance; the rarest share one."""
    counted = Counter(families)
    common = [name for name, _ in counted.most_common()]
    styled_families = common if len(common) <= COLOURS else common[: COLOURS - 1]
    shown = [name for name in counted if name in styled_families] + (
        [OTHER] if len(styled_families) < len(common) else []
    )
    return {name: (index, SHAPES[index % len(SHAPES)]) for index, name in enumerate(shown)}


def _bands(points: Sequence[Mapping[str, Any]], x: Scale) -> str:
    """Every other round shaded, each with its number where there is room."""
    parts = []
    for index, (number, group) in enumerate(groupby(points, key=lambda point: point["round"])):
        members = list(group)
        left, right = x(members[0]["evaluation"] - 0.5), x(members[-1]["evaluation"] + 0.5)
        if index % 2 == 0:
            parts.append(
                tag("rect", class_="band", x=left, y=TOP - 16, width=right - left, height=BOTTOM - TOP + 16)
            )
        if right - left > 16:
            middle = (left + right) / 2
            parts.append(text(middle, TOP - 4, str(number), class_="small", text_anchor="middle"))
    parts.append(text(x.stop + 6, TOP - 4, "round", class_="small"))
    return "".join(parts)


def _best(goals: Sequence[Mapping[str, Any]], x: Scale, y: Scale) -> list[str]:
    """Lines of the best so far, each named at its end, names kept apart."""
    parts, last_name = [], 0.0
    for goal in sorted(
        (goal for goal in goals if goal["steps"]), key=lambda goal: y(goal["steps"][-1]["kl"])
    ):
        path = [(x(step["evaluation"]), y(step["kl"])) for step in goal["steps"]]
        best = goal["steps"][-1]["kl"]
        last_name = max(y(best) + 4, last_name + LINE)
        parts.append(staircase(path, x.stop, class_="best-line"))
        parts.append(text(x.stop + 6, last_name, f"{goal['goal']}: {best:.4f}", class_="best-name"))
    return parts
