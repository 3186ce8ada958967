"""Where the files of a benchmark lie: the folder asked for, or one of the user's state folder."""

from __future__ import annotations

import os
import time
from pathlib import Path

from secateur.storage import check_new_path

RECORDS = "records.jsonl"


def output_folder(out: Path | None) -> Path:
    """The folder; not made yet.

    Raises:
        BadInput: it exists, or cannot be made.
    """
    if out is None:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return Path(base) / "secateur" / "benchmarks" / f"{stamp}-{os.getpid()}"
    check_new_path("out", out)
    return out
