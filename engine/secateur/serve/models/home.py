"""Whose memory it is: a server remembers under the identity of its state folder, one server at a time."""

from __future__ import annotations

import fcntl
import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from secateur.errors import BadInput


@dataclass(frozen=True)
class StateLock:
    """What a server is called in the database.

    Attributes:
        name: stays the same as long as the state folder does.
        shared: the folder is another server's; the name is new, and what is remembered under it is
            found by nobody.
        lock: open as long as the server lives; None if ``shared``.
    """

    name: str
    shared: bool
    lock: int | None


def acquire_state_lock(state_dir: Path) -> StateLock:
    """Take a state folder, which is made if need be, unless another server has.

    Raises:
        BadInput: it cannot be written.
    """
    folder = state_dir.expanduser().absolute() / "models"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return StateLock(uuid.uuid4().hex, True, None)
        return StateLock(_identity(folder / "id"), False, lock)
    except OSError as error:
        raise BadInput("state_dir", state_dir, f"cannot be used: {error.strerror or error}") from error


def release_state_lock(home: StateLock) -> None:
    """Let another server have the folder."""
    if home.lock is not None:
        os.close(home.lock)


def _identity(file: Path) -> str:
    """Return what the file says; written once, whole or not at all."""
    if not file.is_file():
        new = file.with_name(f".{file.name}-{uuid.uuid4().hex}")
        new.write_text(uuid.uuid4().hex, encoding="utf-8")
        with suppress(FileExistsError):
            os.link(new, file)
        new.unlink()
    return file.read_text(encoding="utf-8").strip()
