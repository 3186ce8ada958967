"""A folder for a server's sockets: its own while it lives, and nobody's afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from secateur.locks import try_lock

PREFIX = "secateur-serve-"
LOCK = "lock"


@contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder that goes with the context; those that killed servers left are removed first."""
    _remove_stale(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        lock = try_lock(Path(name) / LOCK, wait=True)
        try:
            yield Path(name)
        finally:
            if lock is not None:
                os.close(lock)


def _remove_stale(parent: Path) -> None:
    # A lock, not a process id: those mean nothing to another container with the same folder.
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            ours = folder.stat().st_uid == os.getuid()
            if ours and (lock := try_lock(folder / LOCK, create=False)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
