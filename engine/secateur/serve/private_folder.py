"""A folder for a server's sockets: its own while it lives, and nobody's afterwards."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "secateur-serve-"
LOCK = "lock"


@contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder that goes with the context; those that killed servers left are removed first."""
    _remove_stale(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, (Path(name) / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def _remove_stale(parent: Path) -> None:
    # A lock, not a process id: those mean nothing to another container with the same folder.
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError), (folder / LOCK).open() as lock:
            if folder.stat().st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
