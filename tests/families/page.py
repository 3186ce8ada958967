"""The table of docs/families.md, from what `python -m tests.families` found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from secateur.model.architecture import Architecture

RESULTS = Path(__file__).parents[2] / "benchmarks/results/families.json"
SHAPES = {
    "uniform": Architecture((1, 1, 1), (64, 64, 64)),
    "per-layer": Architecture((2, 1, 1), (64, 192, 128)),
    "removed": Architecture((2, 1, 0), (64, 0, 192)),
}
COLUMNS = ("`model_type`", "opens", "resumes", *SHAPES, "vLLM, dense", *(f"vLLM, {name}" for name in SHAPES))


def rows() -> list[str]:
    """The rows of the table."""
    found = json.loads(RESULTS.read_text())["families"]
    return [_row(COLUMNS), _row(["---"] * len(COLUMNS)), *(_family(name, found[name]) for name in found)]


def _family(name: str, cells: dict[str, Any]) -> str:
    shapes = [_shape(cells[shape]) for shape in SHAPES]
    served = [_number(cells["vllm"][shape]) for shape in ("dense", *SHAPES)]
    return _row([f"`{name}`", _number(cells["opens"]), cells["resume"], *shapes, *served])


def _shape(cell: dict[str, Any]) -> str:
    kind = "per layer" if cell["model_type"] == "secateur" else "stock"
    return f"{kind}, {_number(cell['loss_difference'])}"


def _number(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.0e}".replace("e-0", "e-") if value else "0"


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print("\n".join(rows()))
