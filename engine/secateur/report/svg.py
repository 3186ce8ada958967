"""Drawing in SVG: elements, scales and axes. Colours are classes and variables of the page around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape


def tag(name: str, content: str = "", **attributes: object) -> str:
    """An element; ``class_`` becomes class, ``data_id`` data-id; None leaves an attribute out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def text(x: float, y: float, content: str, **attributes: object) -> str:
    return tag("text", escape(content), x=x, y=y, **attributes)


def tooltip(content: str) -> str:
    """What is shown over an element."""
    return tag("title", escape(content))


def svg_document(width: float, height: float, title: str, *parts: str) -> str:
    """A whole drawing that scales with its place."""
    return tag(
        "svg",
        "".join(parts),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_value(width)} {_value(height)}",
        role="img",
        aria_label=title,
    )


@dataclass(frozen=True)
class Scale:
    """From values to places.

    Attributes:
        low, high: values at both ends; over 0 and apart for a logarithmic scale.
        start, stop: their places.
        log: whether equal ratios are equally far apart.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; of one beyond the ends, the end."""
        value = min(max(value, self.low), self.high)
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.stop - self.start), 2)

    def ticks(self, num_ticks: int = 5) -> list[float]:
        """Round values within the ends, at least two where there is room."""
        if self.log and self.high / self.low >= 6:
            return self._log_ticks(num_ticks)
        step = _nice((self.high - self.low) / max(num_ticks, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(number * step, 12) for number in range(first, last + 1)]

    def _log_ticks(self, num_ticks: int) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for heads in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            candidate_ticks = [head * 10.0**decade for decade in decades for head in heads]
            inside = [value for value in candidate_ticks if self.low * 0.999 <= value <= self.high * 1.001]
            if len(inside) <= num_ticks + 2:
                break
        return inside


def padded_range(values: Sequence[float], log: bool = False, margin: float = 0.06) -> tuple[float, float]:
    """Ends of a scale that holds all values with some room."""
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** margin, 1.02)
        return low / room, high * room
    room = (high - low) * margin or abs(high) * margin or 1.0
    return low - room, high + room


def axes(
    x: Scale,
    y: Scale,
    x_title: str,
    y_title: str,
    x_format: Callable[[float], str] | None = None,
    y_format: Callable[[float], str] | None = None,
    x_ticks: Sequence[float] | None = None,
    rise: float = 12.0,
) -> str:
    """Grid, ticks and titles of a plot whose y grows upwards; its title is `rise` above it."""
    parts = []
    for value in y.ticks():
        parts.append(tag("line", class_="grid", x1=x.start, x2=x.stop, y1=y(value), y2=y(value)))
        label = (y_format or number)(value)
        parts.append(text(x.start - 8, y(value) + 4, label, class_="tick", text_anchor="end"))
    for value in x.ticks(6) if x_ticks is None else x_ticks:
        parts.append(tag("line", class_="grid", x1=x(value), x2=x(value), y1=y.start, y2=y.start + 4))
        label = (x_format or number)(value)
        parts.append(text(x(value), y.start + 18, label, class_="tick", text_anchor="middle"))
    parts.append(tag("line", class_="axis", x1=x.start, x2=x.stop, y1=y.start, y2=y.start))
    middle = (x.start + x.stop) / 2
    parts.append(text(middle, y.start + 38, x_title, class_="label", text_anchor="middle"))
    parts.append(text(x.start - 44, y.stop - rise, y_title, class_="label"))
    return "".join(parts)


def number(value: float) -> str:
    """A number with three significant digits, without an exponent where that is short."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-4 else f"{value:.0e}"


SHAPES = ("circle", "square", "triangle", "diamond")


def marker(shape: str, x: float, y: float, size: float, content: str = "", **attributes: object) -> str:
    """A mark of one of `SHAPES`; `size` is about its radius."""
    if shape == "circle":
        return tag("circle", content, cx=x, cy=y, r=size, **attributes)
    if shape == "square":
        return tag(
            "path",
            content,
            d=f"M{x - size:.2f} {y - size:.2f}h{2 * size}v{2 * size}h-{2 * size}z",
            **attributes,
        )
    if shape == "triangle":
        high = size * 1.2
        path = f"M{x:.2f} {y - high:.2f}l{high:.2f} {2 * high:.2f}h-{2 * high:.2f}z"
        return tag("path", content, d=path, **attributes)
    far = size * 1.35
    path = f"M{x:.2f} {y - far:.2f}l{far:.2f} {far:.2f}l-{far:.2f} {far:.2f}l-{far:.2f} -{far:.2f}z"
    return tag("path", content, d=path, **attributes)


def legend(x: float, y: float, entries: Sequence[tuple[Callable[..., str], str]]) -> str:
    """A row of marks with their names; each mark is drawn by a function of its place."""
    parts = []
    for draw, name in entries:
        parts.append(draw(x=x + 6, y=y - 4))
        parts.append(text(x + 18, y, name, class_="key"))
        x += 34 + 6.6 * len(name)  # about what the letters take
    return "".join(parts)


def line(points: Sequence[tuple[float, float]], **attributes: str) -> str:
    """An open line through points."""
    path = "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points)
    return tag("path", d=path, fill="none", **attributes)


def staircase(points: Sequence[tuple[float, float]], end: float | None = None, **attributes: str) -> str:
    """A line that keeps the height of a point until the next; `end` is where the last one stops."""
    corners: list[tuple[float, float]] = []
    for x, y in points:
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    if end is not None and corners:
        corners.append((end, corners[-1][1]))
    return line(corners, **attributes)


def _nice(step: float) -> float:
    if step <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(step))
    return next(head * scale for head in (1, 2, 2.5, 5, 10) if head * scale >= step * 0.999)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return escape(str(value), quote=True)
