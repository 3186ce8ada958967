"""The files of a finished benchmark."""

from __future__ import annotations

from pathlib import Path

from secateur.bench.document import benchmark_document
from secateur.bench.load.journal import BenchmarkLog
from secateur.report.bench_page import bench_page
from secateur.storage import os_errors_as_output_failed, write_json


def write_report(folder: Path, log: BenchmarkLog) -> None:
    """Write ``report.json``, with the values of every request, and ``report.html`` beside the records.

    Raises:
        OutputFailed: the place cannot be written.
    """
    described = benchmark_document(log, raw=True)
    page = folder / "report.html"
    with os_errors_as_output_failed(page):
        folder.mkdir(parents=True, exist_ok=True)
        page.write_text(bench_page(described), encoding="utf-8")
    write_json(folder / "report.json", described)
