"""Seconds per stage, as bars."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.report.svg import svg_document, tag, text, tooltip

WIDTH, LEFT, ROOM, ROW = 1080.0, 150.0, 780.0, 28.0


def draw_seconds(seconds: Mapping[str, float]) -> str:
    """One bar per stage, in the order of the study; a sum under ``total`` is left out."""
    stages = {name: value for name, value in seconds.items() if name != "total"}
    whole, longest = sum(stages.values()), max([*stages.values(), 1e-9])
    parts = []
    for row, (name, value) in enumerate(stages.items()):
        y, wide = row * ROW + 6, max(ROOM * value / longest, 1.0)
        share = f"{value / whole:.0%}" if whole else ""
        bar = tag("rect", class_="bar", x=LEFT, y=y, width=wide, height=ROW - 10, rx=2)
        parts.append(text(LEFT - 12, y + 13, name, class_="row-name", text_anchor="end"))
        parts.append(tag("g", tooltip(f"{name}: {value:,.1f} s, {share}") + bar, class_="hover"))
        parts.append(text(LEFT + wide + 8, y + 13, f"{value:,.1f} s  {share}", class_="tick"))
    return svg_document(WIDTH, len(stages) * ROW + 8, "Seconds per stage", *parts)
