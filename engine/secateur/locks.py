"""Locks on files and folders that the kernel drops with their process, however that ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def try_lock(path: Path, *, create: bool = True, wait: bool = False) -> int | None:
    """Lock a file or folder for this process.

    Args:
        create: a file is made when missing; otherwise `path` must exist, and be no symbolic link.
        wait: until no other process holds it.

    Returns:
        The descriptor that holds the lock until it is closed. None if another process holds it, or the file
        system has no such locks.

    Raises:
        OSError: it cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY | os.O_NOFOLLOW
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def is_locked(path: Path) -> bool:
    """Whether a process holds `try_lock` of a file; holds it itself for an instant, to find out."""
    with path.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
