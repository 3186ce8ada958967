"""Which folders a client may name: those below the ones that the operator opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from google.rpc import code_pb2

from secateur.serve.failures import Refused, Violation, invalid


def confined(field: str, text: str, roots: Sequence[Path]) -> Path:
    """Return the folder that a client means, without symbolic links.

    What it holds must not lead elsewhere either: every file in it is a file below the roots.

    Args:
        field: of the request, for the refusal.
        text: an absolute path.
        roots: absolute, without symbolic links.

    Raises:
        Refused: INVALID_ARGUMENT if it is no absolute path, or no folder below a root. PERMISSION_DENIED if
            it is elsewhere, in the same words whatever is there.
    """
    if not text or "\0" in text or not os.path.isabs(text):
        raise invalid(Violation(field, f"got {text[:200]!r}, an absolute path of a folder on the server"))
    folder = Path(os.path.realpath(text))
    if not _below(folder, roots):
        raise _denied(field, text)
    if not folder.is_dir():
        raise invalid(Violation(field, f"got {text}, no such folder"))
    if not all(_below(Path(os.path.realpath(file)), roots) for file in folder.iterdir()):
        raise _denied(field, text)
    return folder


def _below(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _denied(field: str, text: str) -> Refused:
    return Refused(
        code_pb2.PERMISSION_DENIED,
        "FOLDER_NOT_ALLOWED",
        f"{field}: got {text[:200]}, not below a folder that this server opens to its clients (--roots)",
        metadata={"field": field},
    )
