"""Writing files so that they are whole or absent, and a full disk is one clear line."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from secateur.errors import BadInput, OutputFailed


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document under a temporary name, then rename it.

    Raises:
        OutputFailed: the disk is full or the place not writable.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with reported(path):
            temporary.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def require_new(option: str, path: Path) -> None:
    """Check, before any work is spent on it, that an output folder can be made.

    Raises:
        BadInput: it exists, or its parent is no writable folder.
    """
    if path.exists():
        raise BadInput(option, path, "exists; give a new folder, nothing is overwritten")
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise BadInput(option, path, f"{parent} is not a writable folder")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` on success and vanishes on any failure.

    Raises:
        OutputFailed: the disk is full, or `path` appeared meanwhile.
    """
    path = path.absolute()
    with reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    try:
        with reported(path):
            yield temporary
            temporary.chmod(0o755)  # mkdtemp made it private
            if path.exists():
                raise OutputFailed(
                    f"--out: {path} appeared while it was being written; nothing was overwritten"
                )
            os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def require_space(path: Path, needed_bytes: int) -> None:
    """Check that the disk has room.

    Raises:
        OutputFailed: it has not; says how much is missing.
    """
    free = shutil.disk_usage(path).free
    if needed_bytes > free:
        raise OutputFailed(f"{path}: the disk is full: {needed_bytes:,} bytes needed, {free:,} free")


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn failures to write under `path` into `OutputFailed`."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OutputFailed(f"{path}: cannot be written: {error}") from error
    except OSError as error:
        raise OutputFailed(f"{path}: cannot be written: {error.strerror or error}") from error
