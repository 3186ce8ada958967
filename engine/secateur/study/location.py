"""Whether there is a study; told without opening it, which takes imports of seconds."""

from __future__ import annotations

from pathlib import Path

from secateur.config.prune import is_database_url
from secateur.errors import BadInput

JOURNAL = "study.journal"
STUDY_NAME = "secateur"


def check_exists(location: str) -> None:
    """Check that a study lies in a folder; databases are asked later.

    Raises:
        BadInput: none does.
    """
    if is_database_url(location):
        return
    folder = Path(location)
    if not folder.exists():
        raise BadInput("study", location, "there is no such folder")
    if not (folder / JOURNAL).is_file():
        raise BadInput("study", location, f"no study lies there (no {JOURNAL}); prune makes one as OUT.study")
