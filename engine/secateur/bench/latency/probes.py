"""Which shapes to time, and the table that explains the times.

A decode step is taken to be a fixed cost plus one cost per sub-block, which rises with the width. Uniform
shapes say what a width costs: all layers are cut alike, so a difference of two is as large as it gets.
Mixed shapes, like those that a search finds, say how far costs add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from secateur.model.architecture import KINDS, Architecture, Kind
from secateur.space.costs.latency import ModelShape

CHANNEL_FRACTIONS = (0.0, 0.25, 0.5, 0.75)
GROUP_FRACTIONS = (0.0, 1 / 3, 2 / 3)


@dataclass(frozen=True)
class Probes:
    """Architectures to time; the dense one is the first of the uniform ones."""

    uniform: tuple[Architecture, ...]
    mixed: tuple[Architecture, ...]

    @property
    def all(self) -> tuple[Architecture, ...]:
        """Uniform ones first."""
        return (*self.uniform, *self.mixed)


def build_probes(shape: ModelShape) -> Probes:
    """The architectures to time for a model."""
    layers, groups, channels = shape.layers, shape.groups, shape.channels
    dense = Architecture((groups,) * layers, (channels,) * layers)
    narrower_groups, narrower_channels = (_narrower(shape, kind) for kind in KINDS)
    uniform = [dense]
    uniform += [Architecture(dense.groups, (width,) * layers) for width in narrower_channels]
    # The first layer always keeps an attention.
    uniform += [Architecture((max(w, 1), *(w,) * (layers - 1)), dense.channels) for w in narrower_groups]
    mixed = [_mixed(shape, keep) for keep in (0.85, 0.7, 0.5)]
    return Probes(tuple(dict.fromkeys(uniform)), tuple(mixed))


def sub_block_widths(shape: ModelShape, kind: Kind) -> list[int]:
    """The widths of a sub-block that is there for which a table has rows, the dense one last."""
    full = shape.groups if kind == "attention" else shape.channels
    return [*(width for width in _narrower(shape, kind) if width), full]


def fit_table(
    architectures: Sequence[Architecture], nanoseconds: Sequence[float]
) -> tuple[int, dict[Kind, dict[int, int]]]:
    """Fixed cost and rows of a table, by least squares of relative errors; no row falls.

    Widths in the rows are those of the uniform architectures; others count as interpolated between them.
    """
    knots = {kind: sorted({0, *_uniform_widths(architectures, kind)}) for kind in KINDS}
    matrix = np.array([_steps_taken(item, knots) for item in architectures])
    weight = 1.0 / np.array(nanoseconds)
    steps, _ = nnls(matrix * weight[:, None], np.ones(len(weight)))
    rows: dict[Kind, dict[int, int]] = {}
    start = 1
    for kind in KINDS:
        count = len(knots[kind]) - 1
        heights = np.concatenate([[0.0], np.cumsum(steps[start : start + count])])
        rows[kind] = {width: round(height) for width, height in zip(knots[kind], heights, strict=True)}
        start += count
    return round(float(steps[0])), rows


def remove_drift(times: Sequence[Sequence[Sequence[int]]]) -> list[float]:
    """Nanoseconds of a step of every architecture, as if the machine had been the same throughout.

    Whatever else runs slows whole turns down; so a turn is taken relative to those of the same round, the
    median over the rounds is each architecture's, and the median round says how long that is.

    Args:
        times: by architecture, turn and step; the n-th turns of all make a round.
    """
    turns = np.array([[np.median(turn) for turn in turns_of_architecture] for turns_of_architecture in times])
    rounds = np.exp(np.log(turns).mean(0))
    return [float(value) for value in np.median(turns / rounds, 1) * np.median(rounds)]


def relative_iqr(turns: Sequence[Sequence[int]]) -> float:
    """Interquartile range of the turns' medians, as a share of their median: what noise there was."""
    low, middle, high = np.percentile([np.median(turn) for turn in turns], [25, 50, 75])
    return float((high - low) / middle)


def predict_nanoseconds(fixed: int, rows: Mapping[Kind, Mapping[int, int]], candidate: Architecture) -> float:
    """Nanoseconds that a table says."""
    total = float(fixed)
    for kind, widths in (("attention", candidate.groups), ("ffn", candidate.channels)):
        known_widths = sorted(rows[kind])  # type: ignore[index]
        total += float(np.interp(widths, known_widths, [rows[kind][width] for width in known_widths]).sum())  # type: ignore[index]
    return total


def _steps_taken(candidate: Architecture, knots: Mapping[Kind, Sequence[int]]) -> list[float]:
    """1 for the fixed cost; then of every step between knots how often (partly) it is climbed."""
    row = [1.0]
    for kind in KINDS:
        widths = np.array(candidate.groups if kind == "attention" else candidate.channels, dtype=float)
        for low, high in zip(knots[kind], knots[kind][1:], strict=False):
            row.append(float(np.clip((widths - low) / (high - low), 0.0, 1.0).sum()))
    return row


def _uniform_widths(architectures: Sequence[Architecture], kind: Kind) -> set[int]:
    columns = (item.groups if kind == "attention" else item.channels for item in architectures)
    return {widths[-1] for widths in columns if len(set(widths[1:])) == 1}


def _narrower(shape: ModelShape, kind: Kind) -> list[int]:
    if kind == "attention":
        return _widths(shape.groups, GROUP_FRACTIONS, 1)
    return _widths(shape.channels, CHANNEL_FRACTIONS, 64)


def _widths(full: int, fractions: Sequence[float], quantum: int) -> list[int]:
    step = quantum if full >= 4 * quantum else 1
    return sorted({round(full * fraction / step) * step for fraction in fractions} - {full})


def _mixed(shape: ModelShape, keep: float) -> Architecture:
    """About `keep` of everything, no two neighbours alike, a few sub-blocks gone."""
    rng = np.random.default_rng(round(keep * 100))
    step = 64 if shape.channels >= 256 else 1
    fractions = np.clip(rng.normal(keep, 0.3, (2, shape.layers)), 0.0, 1.0)
    groups = [round(float(f) * shape.groups) for f in fractions[0]]
    channels = [round(float(f) * shape.channels / step) * step for f in fractions[1]]
    groups[0] = max(groups[0], 1)
    return Architecture(tuple(groups), tuple(min(c, shape.channels) for c in channels))
