"""What an architecture gives up, sub-block by sub-block, and what the table of single cuts says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secateur.model.architecture import Architecture, Kind, Slot
from secateur.study.view import StudyView

MILLION = 1e6
NAMES: dict[Kind, str] = {"attention": "attention", "ffn": "FFN"}


def sensitivity(view: StudyView) -> list[dict[str, Any]]:
    """Every sub-block with the KL (nats per token) of its deepest cut by the table, most sensitive first.

    The order is by KL per million parameters saved, by KL where the study has no costs. Empty
    without a table.
    """
    rows = [_deepest(view, slot) for slot in view.table if len(view.table[slot]) > 1]
    measure = "kl_per_million" if all(row["kl_per_million"] is not None for row in rows) else "kl"
    ranked = sorted(rows, key=lambda row: -row[measure])
    return [row | {"rank": rank} for rank, row in enumerate(ranked, start=1)]


def removal(
    view: StudyView, candidate: Architecture, ranked: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Every sub-block as the candidate has it: width, what that saves, its single-cut KL, its rank.

    Args:
        ranked: what `sensitivity` found.
    """
    sensitivity_rows = {(row["layer"], row["kind"]): row for row in ranked}
    rows = []
    for layer in range(candidate.num_layers):
        for kind in NAMES:
            width, full = candidate.width(layer, kind), view.dense.width(layer, kind)
            kl = view.table.get((layer, kind), {}).get(width)
            saved = _saved(view, (layer, kind), width)
            rank = sensitivity_rows.get((layer, kind), {}).get("rank")
            deepest = sensitivity_rows.get((layer, kind), {}).get("kl")
            rows.append(
                {
                    "layer": layer,
                    "kind": kind,
                    "width": width,
                    "dense": full,
                    "parameters_saved": saved,
                    "kl": kl,
                    "kl_per_million": _per_million(kl, saved),
                    "kl_deepest": deepest,
                    "rank": rank,
                }
            )
    return rows


def sensitivity_sentence(ranked: Sequence[dict[str, Any]]) -> str:
    """The most and the least sensitive sub-blocks, in words."""
    if not ranked:
        return "The study has no table of single cuts, so it cannot say which sub-blocks are sensitive."
    most_sensitive, least_sensitive = _named(ranked[0]), _named(ranked[-1])
    if len(ranked) < 8:
        return f"Most sensitive is the {most_sensitive}; least sensitive the {least_sensitive}."
    next_most, next_least = _listed(ranked[1:4]), _listed(ranked[-4:-1][::-1])
    return (
        f"Most sensitive is the {most_sensitive}, then {next_most}; "
        f"least sensitive the {least_sensitive}, then {next_least}."
    )


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """How many sub-blocks an architecture removes, narrows and keeps whole."""
    parts = []
    for kind, name in NAMES.items():
        half = [row for row in rows if row["kind"] == kind and row["dense"]]
        gone = sum(row["width"] == 0 for row in half)
        whole = sum(row["width"] == row["dense"] for row in half)
        parts.append(f"{name}: {gone} removed, {len(half) - gone - whole} narrower, {whole} whole")
    return "; ".join(parts)


def _deepest(view: StudyView, slot: Slot) -> dict[str, Any]:
    row = view.table[slot]
    width = min(row)
    saved = _saved(view, slot, width)
    return {
        "layer": slot[0],
        "kind": slot[1],
        "width": width,
        "dense": view.dense.width(*slot),
        "kl": row[width],
        "kl_per_million": _per_million(row[width], saved),
    }


def _saved(view: StudyView, slot: Slot, width: int) -> int | None:
    """Parameters that a width saves."""
    row = view.costs["params"].table.get(slot) if "params" in view.costs else None
    if row is None or width not in row:
        return None
    return row[view.dense.width(*slot)] - row[width]


def _per_million(kl: float | None, saved: int | None) -> float | None:
    return kl / saved * MILLION if kl is not None and saved else None


def _named(row: dict[str, Any]) -> str:
    cut = "removing it" if row["width"] == 0 else f"cutting it to {row['width']}"
    text = f"{NAMES[row['kind']]} of layer {row['layer']} ({cut} costs {row['kl']:.4g} nats"
    per_million = row["kl_per_million"]
    return text + (f", {per_million:.3g} per million parameters)" if per_million is not None else ")")


def _listed(rows: Sequence[dict[str, Any]]) -> str:
    *leading_names, last = [f"{NAMES[row['kind']]} {row['layer']}" for row in rows]
    return f"{', '.join(leading_names)} and {last}"
