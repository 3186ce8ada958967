"""The report of the recipe of arXiv 2309.09507, the paper's own figures beside ours, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

# Of the paper, section 3: Llama-2-7B, 525 pairs. It reports no rank correlation.
PAPER_ERRORS: Mapping[str, float] = {"mse": 0.1743, "rmse": 0.3861, "mae": 0.2088, "r2": 0.8040}
_LABELS = {
    "mse": "MSE",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
    "tau": "Kendall tau",
    "top_10_recall": "top-10 recall",
}


def predictor_table(report: Mapping[str, Any]) -> Table:
    """Errors and rank quality on the held-out pairs.

    Args:
        report: as in the record, ``search.paper``.
    """
    title = f"predictor on {report['held_out']} held-out pairs, fitted on {report['train']}"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("here", "the paper, 7B"):
        table.add_column(name, justify="right")
    for key, label in _LABELS.items():
        table.add_row(label, _number(report[key]), _number(PAPER_ERRORS.get(key)))
    return table


def ranges_table(report: Mapping[str, Any]) -> Table:
    """Ratios pruned of the narrowed space and importances, a layer per row."""
    table = Table(title="narrowed space: ratio pruned, share of importance", title_justify="left")
    for name in ("layer", "attention", "", "FFN", ""):
        table.add_column(name, justify="right")
    layers = sorted({int(name.split()[1]) for name in report["ranges"]})
    for layer in layers:
        cells = [_cells(report, f"layer {layer} {kind}") for kind in ("attention", "ffn")]
        table.add_row(str(layer), *cells[0], *cells[1])
    return table


def _cells(report: Mapping[str, Any], name: str) -> tuple[str, str]:
    min_tenths, max_tenths = report["ranges"][name]
    return f"0.{min_tenths} to 0.{max_tenths}", f"{report['importance'][name]:.1%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
