"""Measured latency: nanoseconds of a decode step, by sub-block and width.

The search only reads such a table. How it is measured is the business of `bench.latency`, which knows
the engine; the two share the file and nothing else.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from secateur.errors import BadInput
from secateur.model.architecture import KINDS, Kind
from secateur.model.decoder import DecoderModel, architecture_of
from secateur.space.costs.cost import Cost
from secateur.space.space import Space

UNIT = "ns per decode step"


@dataclass(frozen=True)
class ModelShape:
    """What the time of a decode step depends on, of a dense model whose layers are alike."""

    family: str
    layers: int
    hidden: int
    head_dim: int
    queries_per_group: int
    groups: int
    channels: int
    vocabulary: int


@dataclass(frozen=True)
class LatencyConditions:
    """What a table holds for: with any of it changed, times are others.

    Attributes:
        device: processor or GPU, and how many threads.
        engine: name and version.
        dtype: of weights and activations.
        batch: sequences that are decoded together.
        context: tokens of each sequence, on average over the step measured.
    """

    device: str
    engine: str
    dtype: str
    batch: int
    context: int
    model: ModelShape


@dataclass(frozen=True)
class LatencyTable:
    """Time of a decode step, as a sum over sub-blocks.

    Attributes:
        fixed: nanoseconds of everything outside the layers.
        rows: nanoseconds of one sub-block by width, for some widths from 0 to the dense one; widths in
            between are interpolated.
        report: how well it predicts whole models, for people; nothing is computed from it.
    """

    conditions: LatencyConditions
    fixed: int
    rows: Mapping[Kind, Mapping[int, int]]
    report: Mapping[str, Any] = field(default_factory=dict)

    def block(self, kind: Kind, width: int) -> int:
        """Nanoseconds of one sub-block."""
        row = self.rows[kind]
        measured_widths = sorted(row)
        right = bisect_left(measured_widths, width)
        if measured_widths[right] == width:
            return row[width]
        low, high = measured_widths[right - 1], measured_widths[right]
        return row[low] + round((row[high] - row[low]) * (width - low) / (high - low))

    def cost(self, space: Space) -> Cost:
        """Nanoseconds for every allowed width of a space; never less for more width.

        Raises:
            BadInput: the table is for another model.
        """
        table = {}
        for layer, kind in space.slots:
            if max(self.rows[kind]) != space.dense.width(layer, kind):
                raise BadInput("latency_table", kind, "measured for a model of another width")
            widths = space.widths(layer, kind)
            rising = accumulate((self.block(kind, width) for width in widths), max)
            table[layer, kind] = dict(zip(widths, rising, strict=True))
        return Cost(UNIT, self.fixed, table)

    def to_json(self) -> dict[str, Any]:
        rows = {kind: {str(width): ns for width, ns in sorted(self.rows[kind].items())} for kind in KINDS}
        return {
            "conditions": asdict(self.conditions),
            "unit": UNIT,
            "fixed": self.fixed,
            "rows": rows,
            "report": dict(self.report),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> LatencyTable:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError for what is no table."""
        fields = dict(document["conditions"])
        conditions = LatencyConditions(**fields | {"model": ModelShape(**fields["model"])})
        rows = {kind: {int(width): int(ns) for width, ns in document["rows"][kind].items()} for kind in KINDS}
        if document["unit"] != UNIT or any(0 not in row or min(row.values()) < 0 for row in rows.values()):
            raise ValueError("not a table of decode steps")
        return cls(conditions, int(document["fixed"]), rows, document.get("report", {}))


def read_table(path: Path) -> LatencyTable:
    """A table from its file.

    Raises:
        BadInput: there is none, or it is not one.
    """
    try:
        return LatencyTable.from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise BadInput("latency_table", path, error.strerror or "cannot be read") from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise BadInput("latency_table", path, "is not a latency table") from error


def model_shape(model: DecoderModel) -> ModelShape:
    """The shape of a dense model.

    Raises:
        BadInput: its layers differ.
    """
    dense = architecture_of(model)
    if len(set(dense.groups)) > 1 or len(set(dense.channels)) > 1:
        raise BadInput("budget", "latency", "the layers of the dense model differ")
    vocabulary, hidden = model.embedding_VH.shape
    return ModelShape(
        family=str(model.config.model_type),
        layers=dense.num_layers,
        hidden=hidden,
        head_dim=model.head_dim,
        queries_per_group=model.queries_per_group,
        groups=dense.groups[0],
        channels=dense.channels[0],
        vocabulary=vocabulary,
    )
