"""Writing files so that they are whole or absent, and a full disk is one clear line."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from secateur.errors import BadInput, OutputFailed
from secateur.locks import try_lock

_RANDOM = 8  # characters that mkdtemp puts at the end of a name


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document, as `write_text` does."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, its line ends as they are, under a temporary name, then rename it.

    Raises:
        OutputFailed: the disk is full or the place not writable.
    """
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; what is written there gets its name on success and vanishes on failure.

    Raises:
        OutputFailed: the disk is full or the place not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with os_errors_as_output_failed(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_new_path(option: str, path: Path) -> None:
    """Check, before any work is spent on it, that an output folder can be made.

    Raises:
        BadInput: it exists, or its parent is no writable folder.
    """
    if path.exists():
        raise BadInput(option, path, "exists; give a new folder, nothing is overwritten")
    check_parent(option, path)


def check_parent(option: str, path: Path) -> None:
    """Check that a file or folder can be made.

    Raises:
        BadInput: the nearest folder above it that exists is not writable, or is none.
    """
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not _takes_files(parent):
        raise BadInput(option, path, f"{parent} is not a writable folder")


def _takes_files(folder: Path) -> bool:
    """Tried: permissions do not tell it, to root every folder is writable, also one of ``/proc``."""
    try:
        with tempfile.TemporaryDirectory(prefix=".secateur-", dir=folder):
            return True
    except OSError:
        return False


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` on success and vanishes on any failure.

    One that an earlier process left because it was killed is removed first.

    Raises:
        OutputFailed: the disk is full, or `path` appeared meanwhile.
    """
    path = path.absolute()
    with os_errors_as_output_failed(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(path)
        temporary, lock = _partial_folder(path)
    try:
        with os_errors_as_output_failed(path):
            yield temporary
            follow_umask(temporary)
            if path.exists():
                raise OutputFailed(
                    f"`out`: {path} appeared while it was being written; nothing was overwritten"
                )
            os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _partial_folder(path: Path) -> tuple[Path, int | None]:
    """A temporary folder for `path`, and its lock. It gets its name only once it is locked."""
    unnamed = Path(tempfile.mkdtemp(prefix=f".{path.name}.new-", dir=path.parent))
    lock = _lock(unnamed)
    temporary = path.with_name(f".{path.name}.partial-{unnamed.name[-_RANDOM:]}")
    os.rename(unnamed, temporary)
    return temporary, lock


def follow_umask(path: Path) -> None:
    """Give a file, or a folder and everything in it, the mode that new ones have there.

    mkdtemp makes private folders, and safetensors private files: a server of another user cannot read them.
    """
    mode = _mode_of_new_files(path.parent)
    folder_mode = mode | (mode & 0o444) >> 2  # who may read a folder may enter it
    paths = [path, *path.rglob("*")] if path.is_dir() else [path]
    for each in paths:
        each.chmod(folder_mode if each.is_dir() else mode)


def _mode_of_new_files(folder: Path) -> int:
    """Tried: a process can read its umask only by changing it, for all its threads."""
    probe = folder / f".mode-{os.getpid()}-{threading.get_ident()}"
    descriptor = os.open(probe, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    try:
        return os.fstat(descriptor).st_mode & 0o666
    finally:
        os.close(descriptor)
        probe.unlink()


def _remove_left_behind(path: Path) -> None:
    """Remove temporary folders for `path` whose process is gone: its lock went with it."""
    partial_pattern = re.compile(re.escape(f".{path.name}.partial-") + f"[a-z0-9_]{{{_RANDOM}}}")
    with suppress(OSError):  # a folder that cannot be listed may still be written
        for folder in list(path.parent.iterdir()):
            if partial_pattern.fullmatch(folder.name) and (lock := _lock(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder until the descriptor is closed or the process ends; None where that cannot be done.

    That is where another process holds it, and where the file system has no such locks.
    """
    with suppress(OSError):
        return try_lock(folder, create=False)
    return None


def check_disk_space(path: Path, needed_bytes: int) -> None:
    """Check that the disk has room.

    Args:
        path: on that disk; it may be about to be made.

    Raises:
        OutputFailed: it has not; says how much is missing.
    """
    free = shutil.disk_usage(next(each for each in (path, *path.parents) if each.exists())).free
    if needed_bytes > free:
        raise OutputFailed(f"{path}: the disk is full: {needed_bytes:,} bytes needed, {free:,} free")


@contextmanager
def os_errors_as_output_failed(path: Path) -> Iterator[None]:
    """Turn failures to write under `path` into `OutputFailed`."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OutputFailed(f"{path}: cannot be written: {error}") from error
    except OSError as error:
        raise OutputFailed(f"{path}: cannot be written: {error.strerror or error}") from error
