"""Paths that clients name: only what lies below the folders the server was told to open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from secateur.serve.failures import Violation, invalid


def confined(field: str, text: str, roots: Sequence[Path]) -> Path:
    """The file or folder that a client means, as an absolute path without symbolic links.

    Args:
        field: of the request, for the refusal.
        text: absolute, or relative to one of the roots.
        roots: absolute, without symbolic links.

    Raises:
        Refused: it does not lie below a root, or there is nothing. What lies elsewhere is not told.
    """
    if not roots:
        raise invalid(Violation(field, f"got {text}, but the server opens no folder to clients (--roots)"))
    try:
        candidates = [(root / text).resolve() for root in roots]
        inside = [path for path in candidates if _lies_below(path, roots)]
        found = next((path for path in inside if path.exists()), None)
    except (OSError, ValueError, RuntimeError):  # no path at all: too long, a zero byte, a loop of links
        raise invalid(Violation(field, f"got {text[:100]!r}, not a path")) from None
    if not inside or (found is not None and not _holds_nothing_else(found, roots)):
        allowed = ", ".join(map(str, roots))
        raise invalid(Violation(field, f"got {text}, allowed are paths below {allowed}"))
    if found is None:
        raise invalid(Violation(field, f"got {text}, there is no such file or folder"))
    return found


def _lies_below(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _holds_nothing_else(path: Path, roots: Sequence[Path]) -> bool:
    """Whether the files of a folder are what they seem: a link may lead elsewhere."""
    return not path.is_dir() or all(_lies_below(file.resolve(), roots) for file in path.iterdir())
