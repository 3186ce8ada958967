"""The files of a finished benchmark."""

from __future__ import annotations

from pathlib import Path

from secateur.bench.document import document
from secateur.bench.load.journal import Log
from secateur.storage import write_json


def write_report(folder: Path, log: Log) -> None:
    """Write ``report.json``, with the values of every request, beside the records.

    Raises:
        OutputFailed: the place cannot be written.
    """
    write_json(folder / "report.json", document(log, raw=True))
