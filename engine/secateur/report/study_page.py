"""The page of a study: one HTML file with everything in it, drawn from the document alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from secateur.errors import BadInput
from secateur.report.figures.front import draw_front
from secateur.report.figures.predictor import draw_predictor, has_predictions
from secateur.report.figures.progress import draw_progress
from secateur.report.figures.removal import draw_sensitivity
from secateur.report.figures.seconds import draw_seconds
from secateur.report.figures.widths import draw_widths
from secateur.report.page import render
from secateur.report.protocol import protocol_rows
from secateur.report.removal import NAMES
from secateur.storage import write_text

MARK = "<!-- secateur study report -->"  # in the first line of every page: what may be overwritten


def study_page(document: Mapping[str, Any]) -> str:
    """The HTML of a document of `study_report`; needs no network and no other file."""
    return render(
        "study.html.j2",
        mark=Markup(MARK),
        document=document,
        drawings=_drawings(document),
        protocol=protocol_rows(document),
        names=NAMES,
    )


def write_page(path: Path, page: str) -> None:
    """Write the page under a temporary name, then rename it; an earlier report is replaced.

    Raises:
        BadInput: something else lies there.
        OutputFailed: the place cannot be written.
    """
    require_replaceable(path)
    write_text(path, page)


def require_replaceable(path: Path) -> None:
    """Check that a page may be written there: nothing is there, or an earlier report.

    Raises:
        BadInput: something else lies there, or there is no such folder.
    """
    if not path.absolute().parent.is_dir():
        raise BadInput("out", path, f"{path.absolute().parent} is not a folder")
    if path.is_dir():
        raise BadInput("out", path, "is a folder; give a file, for example report.html")
    if path.exists():
        with path.open("rb") as file:
            if MARK.encode() not in file.readline(200):
                raise BadInput("out", path, "exists and is no earlier report; nothing is overwritten")


def _drawings(document: Mapping[str, Any]) -> dict[str, Any]:
    """SVG by figure; what there is no data for is left out."""
    figures = document["figures"]
    best = {goal["name"]: goal["best"]["id"] for goal in document["goals"] if goal["best"]}
    drawings: dict[str, Any] = {
        "front": {kind: draw_front(figures["front"], kind, best) for kind in figures["front"]["costs"]},
        "widths": {
            entry["goal"]: draw_widths(figures["widths"]["dense"], entry)
            for entry in figures["widths"]["goals"]
        },
    }
    if has_predictions(figures["predictor"]):
        drawings["predictor"] = draw_predictor(figures["predictor"])
    if figures["progress"]["points"]:
        drawings["progress"] = draw_progress(figures["progress"])
    if figures["removal"]["sensitivity"]:
        drawings["sensitivity"] = draw_sensitivity(figures["removal"]["sensitivity"])
    if figures["seconds"]:
        drawings["seconds"] = draw_seconds(figures["seconds"])
    return drawings
