"""The file of a study's page: an earlier one is replaced, nothing else is."""

from __future__ import annotations

from pathlib import Path

from secateur.errors import BadInput
from secateur.storage import write_text

MARK = "<!-- secateur study report -->"  # in the first line of every page: what may be overwritten


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
