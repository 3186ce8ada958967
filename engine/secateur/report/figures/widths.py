"""Widths per layer: attention and FFN of every layer one above the other, the dense width as an outline."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.report.svg import svg_document, tag, text, tooltip

WIDTH = 1080.0
LEFT, RIGHT = 108.0, 12.0
ROWS = (("groups", "attention", "KV groups", 58.0), ("channels", "FFN", "channels", 92.0))
HEAD, GAP = 24.0, 28.0
NARROW = 16.0  # a column that holds no label


def draw_widths(dense: Mapping[str, list[int]], kept_widths: Mapping[str, list[int]]) -> str:
    """One architecture.

    Args:
        dense, kept: ``groups`` and ``channels`` per layer.
    """
    step = (WIDTH - LEFT - RIGHT) / max(len(dense["groups"]), 1)
    parts, top = [_layers(len(dense["groups"]), step)], HEAD
    for key, name, unit, height in ROWS:
        parts.append(text(LEFT - 12, top + height / 2, name, class_="row-name", text_anchor="end"))
        widest = f"{max(dense[key])} {unit}"
        parts.append(text(LEFT - 12, top + height / 2 + 15, widest, class_="tick", text_anchor="end"))
        for layer, (full, width) in enumerate(zip(dense[key], kept_widths[key], strict=True)):
            box = (LEFT + layer * step, top, step, height)
            parts.append(_sub_block(box, layer, name, unit, width, full, max(dense[key])))
        top += height + GAP
    return svg_document(WIDTH, top - GAP + 18, "Widths kept per layer", *parts)


def _layers(count: int, step: float) -> str:
    """Numbers of the layers, above."""
    parts = [text(LEFT - 12, HEAD - 10, "layer", class_="tick", text_anchor="end")]
    for layer in range(0, count, 1 if step >= NARROW else 5):
        parts.append(
            text(LEFT + (layer + 0.5) * step, HEAD - 10, str(layer), class_="tick", text_anchor="middle")
        )
    return "".join(parts)


def _sub_block(
    box: tuple[float, float, float, float],
    layer: int,
    name: str,
    unit: str,
    width: int,
    full: int,
    widest: int,
) -> str:
    """A bar within its outline; a cross where nothing is left."""
    left, top, step, height = box
    inner, x = step * 0.78, left + step * 0.11
    whole = height * full / widest if widest else 0.0
    high = height * width / widest if widest else 0.0
    base = top + height
    share = f" ({width / full:.0%})" if full else ""
    parts = [
        tooltip(f"{name} {layer}: {width} of {full} {unit}{share}" if width else f"{name} {layer}: removed"),
        tag("rect", class_="outline", x=x, y=base - whole, width=inner, height=whole, rx=1.5),
    ]
    if width:
        style = f"kept-{unit.split()[-1]}" + (" whole" if width == full else "")
        parts.append(tag("rect", class_=style, x=x, y=base - high, width=inner, height=high, rx=1.5))
        if unit == "KV groups" and full <= 16:  # few enough to be told apart
            for group in range(1, width):
                y = base - height * group / widest
                parts.append(tag("line", class_="cut", x1=x, x2=x + inner, y1=y, y2=y))
        if step >= NARROW:
            label = str(width) if unit == "KV groups" else f"{width / full:.0%}".rstrip("%")
            parts.append(text(left + step / 2, base + 13, label, class_="small", text_anchor="middle"))
    elif full:
        arm, x_mid, y_mid = min(inner, 14) / 2.6, left + step / 2, base - whole / 2
        long = f"{2 * arm:.2f}"
        cross = f"M{x_mid - arm:.2f} {y_mid - arm:.2f}l{long} {long}m0 -{long}l-{long} {long}"
        parts.append(tag("rect", class_="gone", x=x, y=base - whole, width=inner, height=whole, rx=1.5))
        parts.append(tag("path", class_="cross", d=cross))
        if step >= NARROW:
            parts.append(
                text(left + step / 2, base + 13, "0", class_="small gone-label", text_anchor="middle")
            )
    return tag("g", "".join(parts), class_="hover")
