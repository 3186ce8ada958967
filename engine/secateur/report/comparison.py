"""Dense and slim side by side, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.table import Table

_ROWS: tuple[tuple[str, Callable[[Mapping[str, Any]], float], str], ...] = (
    ("non-embedding parameters", lambda side: side["parameters"]["non_embedding"], ",d"),
    ("total parameters", lambda side: side["parameters"]["total"], ",d"),
    ("checkpoint bytes", lambda side: side["checkpoint_bytes"], ",d"),
    ("perplexity", lambda side: side["perplexity"], ".2f"),
    ("time to first token, ms", lambda side: side["decode"]["ttft_ms"], ".0f"),
    ("decode, tokens/s", lambda side: side["decode"]["tokens_per_second"], ".1f"),
)


def comparison_table(dense: Mapping[str, Any], slim: Mapping[str, Any], title: str) -> Table:
    """Rows of sizes, perplexity and speed, with slim as a fraction of dense."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("dense", "slim", "slim / dense"):
        table.add_column(name, justify="right")
    for label, read, style in _ROWS:
        left, right = read(dense), read(slim)
        table.add_row(label, format(left, style), format(right, style), f"{right / left:.3f}")
    return table
