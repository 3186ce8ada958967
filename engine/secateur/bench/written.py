"""The files of a finished benchmark."""

from __future__ import annotations

from pathlib import Path

from secateur.bench.document import document
from secateur.bench.load.journal import Log
from secateur.report.bench_page import bench_page
from secateur.storage import reported, write_json


def write_report(folder: Path, log: Log) -> None:
    """Write ``report.json``, with the values of every request, and ``report.html`` beside the records.

    Raises:
        OutputFailed: the place cannot be written.
    """
    described = document(log, raw=True)
    page = folder / "report.html"
    with reported(page):
        folder.mkdir(parents=True, exist_ok=True)
        page.write_text(bench_page(described), encoding="utf-8")
    write_json(folder / "report.json", described)
