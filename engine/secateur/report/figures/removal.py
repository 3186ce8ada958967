"""Sensitivity: KL of the deepest cut of every sub-block, by the table, per million parameters it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from secateur.report.removal import NAMES
from secateur.report.svg import Scale, axes, legend, line, marker, padded_range, svg_document, tooltip

WIDTH, HEIGHT = 1080.0, 300.0
TOP, BOTTOM = 56.0, 240.0
LEFT, RIGHT = 92.0, 1056.0
_SHAPES = {"attention": "circle", "ffn": "square"}


def draw_sensitivity(rows: Sequence[Mapping[str, Any]]) -> str:
    """One mark per sub-block over the layers, attention and FFN apart by colour and shape.

    Args:
        rows: ``figures.removal.sensitivity`` of the document; at least one.
    """
    key = "kl" if any(row["kl_per_million"] is None for row in rows) else "kl_per_million"
    title = "KL of the deepest cut by the table, nats per token" + (
        " and million parameters" if key == "kl_per_million" else ""
    )
    layers = max(row["layer"] for row in rows) + 1
    x = Scale(-0.5, layers - 0.5, LEFT, RIGHT)
    y = Scale(*padded_range([max(row[key], 1e-7) for row in rows], log=True), BOTTOM, TOP, log=True)
    every = 1 if (RIGHT - LEFT) / layers >= 16 else 5
    parts = [axes(x, y, "layer", title, str, x_ticks=range(0, layers, every))]
    for kind, name in NAMES.items():
        members = sorted((row for row in rows if row["kind"] == kind), key=lambda row: row["layer"])
        if members:
            parts.append(line([(x(row["layer"]), y(row[key])) for row in members], class_=f"thread-{kind}"))
        for row in members:
            words = f"{name} {row['layer']} cut to {row['width']}\nKL {row['kl']:.4g}\nrank {row['rank']}"
            at = (x(row["layer"]), y(row[key]))
            parts.append(marker(_SHAPES[kind], *at, 4.5, tooltip(words), class_=f"dot {kind}"))
    entries = [
        (partial(marker, _SHAPES[kind], size=4.5, class_=f"dot {kind}"), name) for kind, name in NAMES.items()
    ]
    return svg_document(WIDTH, HEIGHT, "Sensitivity of every sub-block", legend(LEFT, 16, entries), *parts)
