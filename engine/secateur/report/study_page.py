"""The page of a study: one HTML file with everything in it, drawn from the document alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from secateur.report.figures.front import draw_front
from secateur.report.figures.predictor import draw_predictor, has_predictions
from secateur.report.figures.progress import draw_progress
from secateur.report.figures.removal import draw_sensitivity
from secateur.report.figures.seconds import draw_seconds
from secateur.report.figures.widths import draw_widths
from secateur.report.page import render
from secateur.report.protocol import protocol_rows
from secateur.report.removal import NAMES
from secateur.report.study_page_file import MARK


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
