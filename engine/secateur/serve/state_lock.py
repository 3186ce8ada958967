"""Whose state a folder holds: one server's at a time, under an identity that stays."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from secateur.errors import BadInput
from secateur.locks import try_lock


@dataclass(frozen=True)
class StateLock:
    """What a server is called in the database.

    Attributes:
        name: stays the same as long as the state folder does.
        shared: the folder is another server's; the name is new, and what is remembered under it is
            found by nobody.
        descriptor: open as long as the server lives; None if ``shared``.
    """

    name: str
    shared: bool
    descriptor: int | None


def acquire_state_lock(state_dir: Path) -> StateLock:
    """Take a state folder, which is made if need be, unless another server has.

    Raises:
        BadInput: it cannot be written.
    """
    folder = state_dir.absolute() / "models"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = try_lock(folder / "server.lock")
        if descriptor is None:
            return StateLock(uuid.uuid4().hex, True, None)
        return StateLock(folder_identity(folder), False, descriptor)
    except OSError as error:
        raise BadInput("state_dir", state_dir, f"cannot be used: {error.strerror or error}") from error


def release_state_lock(lock: StateLock) -> None:
    """Let another server have the folder."""
    if lock.descriptor is not None:
        os.close(lock.descriptor)


def folder_identity(folder: Path) -> str:
    """What a folder is called in the database, whatever its path: written once, whole or not at all."""
    file = folder / "id"
    if not file.is_file():
        new = file.with_name(f".{file.name}-{uuid.uuid4().hex}")
        new.write_text(uuid.uuid4().hex, encoding="utf-8")
        with suppress(FileExistsError):  # another server was first
            os.link(new, file)
        new.unlink()
    return file.read_text(encoding="utf-8").strip()
