"""Sub-blocks to be timed by themselves: a made-up model whose layers have one sub-block each.

Layers of one kind and width follow each other, a chain. It is long enough that its weights do not stay in a
cache, as those of a whole model would not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from secateur.bench.latency.probes import predict_nanoseconds, sub_block_widths
from secateur.model.architecture import KINDS, Architecture, Kind
from secateur.space.costs.latency import ModelShape

CHAIN_BYTES = 256 * 2**20
"""Of weights, five times the L2 cache of an H100; less where the model itself has less of them."""


@dataclass(frozen=True)
class Chain:
    """Layers that have a sub-block of one kind and width, and nothing else."""

    kind: Kind
    width: int
    layers: range


def build_chains(shape: ModelShape, bytes_per_weight: int) -> tuple[Chain, ...]:
    """Chains of all widths that a table has rows for; those of attention first."""
    chains: list[Chain] = []
    start = 0
    for kind in KINDS:
        for width in sub_block_widths(shape, kind):
            size = _weights(shape, kind, width) * bytes_per_weight
            length = min(shape.layers, max(2, -(-CHAIN_BYTES // size)))
            chains.append(Chain(kind, width, range(start, start + length)))
            start += length
    return tuple(chains)


def chained_architecture(chains: Sequence[Chain]) -> Architecture:
    """The made-up model."""
    groups = (chain.width * (chain.kind == "attention") for chain in chains for _ in chain.layers)
    channels = (chain.width * (chain.kind == "ffn") for chain in chains for _ in chain.layers)
    return Architecture(tuple(groups), tuple(channels))


def rows_of(chains: Sequence[Chain], nanoseconds: Sequence[float]) -> dict[Kind, dict[int, int]]:
    """Rows of a table from the times of whole chains; no row falls."""
    rows: dict[Kind, dict[int, int]] = {kind: {0: 0} for kind in KINDS}
    for chain, time in zip(chains, nanoseconds, strict=True):
        row = rows[chain.kind]
        row[chain.width] = max(round(time / len(chain.layers)), max(row.values()))
    return rows


def fit_to_models(
    rows: Mapping[Kind, Mapping[int, int]],
    architectures: Sequence[Architecture],
    nanoseconds: Sequence[float],
) -> tuple[int, dict[Kind, dict[int, int]]]:
    """The fixed cost of a step, and rows scaled to what whole models took: least squares of relative errors.

    The scale holds what a chain lacks: compiled pieces, other neighbours. It is one number for all rows.
    """
    blocks = [predict_nanoseconds(0, rows, item) for item in architectures]
    matrix = np.array([[1.0, block] for block in blocks]) / np.array(nanoseconds)[:, None]
    (fixed, scale), _ = nnls(matrix, np.ones(len(blocks)))
    scaled = {kind: {width: round(scale * ns) for width, ns in row.items()} for kind, row in rows.items()}
    return round(float(fixed)), scaled


def errors_left_out(
    rows: Mapping[Kind, Mapping[int, int]],
    architectures: Sequence[Architecture],
    nanoseconds: Sequence[float],
) -> Iterator[float]:
    """Relative error of each whole model but the first, predicted from all the others."""
    for left_out in range(1, len(architectures)):
        others = [index for index in range(len(architectures)) if index != left_out]
        fitted = fit_to_models(rows, [architectures[i] for i in others], [nanoseconds[i] for i in others])
        yield predict_nanoseconds(*fitted, architectures[left_out]) / nanoseconds[left_out] - 1


def _weights(shape: ModelShape, kind: Kind, width: int) -> int:
    if kind == "attention":
        return 2 * shape.hidden * width * (shape.queries_per_group + 1) * shape.head_dim
    return 3 * shape.hidden * width
