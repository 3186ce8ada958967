"""The files of a benchmark: records as they come, reports at its end."""

from __future__ import annotations

import os
import time
from pathlib import Path

from secateur.bench.document import benchmark_document
from secateur.bench.load.journal import BenchmarkLog
from secateur.report.bench_page import bench_page
from secateur.storage import check_new_path, os_errors_as_output_failed, write_json

RECORDS = "records.jsonl"


def output_folder(out: Path | None) -> Path:
    """The folder asked for, or one in the user's state folder; not made yet.

    Raises:
        BadInput: it exists, or cannot be made.
    """
    if out is None:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return Path(base) / "secateur" / "benchmarks" / f"{stamp}-{os.getpid()}"
    check_new_path("out", out)
    return out


def write_report(folder: Path, log: BenchmarkLog) -> None:
    """Write ``report.json``, with the values of every request, and ``report.html`` beside the records.

    Raises:
        OutputFailed: the place cannot be written.
    """
    document = benchmark_document(log, raw=True)
    page = folder / "report.html"
    with os_errors_as_output_failed(page):
        folder.mkdir(parents=True, exist_ok=True)
        page.write_text(bench_page(document), encoding="utf-8")
    write_json(folder / "report.json", document)
