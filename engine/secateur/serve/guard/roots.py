"""Which files and folders a client may name: those below the folders that the operator opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from google.rpc import code_pb2

from secateur.serve.failures import FieldViolation, RpcError, invalid_argument


def resolve_within_roots(field: str, text: str, roots: Sequence[Path]) -> Path:
    """The file or folder that a client means, absolute and without symbolic links.

    What a folder holds must not lead elsewhere either: every file in it is a file below the roots.

    Args:
        field: of the request, for the refusal.
        text: absolute, or relative to one of the roots.
        roots: absolute, without symbolic links.

    Raises:
        RpcError: INVALID_ARGUMENT if it is no path, or nothing is there. PERMISSION_DENIED if it lies
            elsewhere, in the same words whatever is there.
    """
    if not text:
        raise invalid_argument(
            FieldViolation(field, "got nothing, a path on the server, below a folder it opens to clients")
        )
    try:
        candidates = [(root / text).resolve() for root in roots]
        inside = [path for path in candidates if is_below(path, roots)]
        existing_path = next((path for path in inside if path.exists()), None)
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, a loop of links
        raise invalid_argument(FieldViolation(field, f"got {text[:100]!r}, not a path")) from None
    if not inside or (existing_path is not None and not _holds_nothing_else(existing_path, roots)):
        raise _path_denied(field, text, roots)
    if existing_path is None:
        raise invalid_argument(FieldViolation(field, f"got {text}, there is no such file or folder"))
    return existing_path


def is_below(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a path, absolute and without symbolic links, lies below one of the roots."""
    return any(path.is_relative_to(root) for root in roots)


def _holds_nothing_else(path: Path, roots: Sequence[Path]) -> bool:
    return not path.is_dir() or all(is_below(file.resolve(), roots) for file in path.iterdir())


def _path_denied(field: str, text: str, roots: Sequence[Path]) -> RpcError:
    if roots:
        reason = f"got {text[:200]}, allowed are paths below {', '.join(map(str, roots))}"
    else:
        reason = f"got {text[:200]}, but the server opens no folder to clients"
    violations = [FieldViolation(field, reason)]
    return RpcError(code_pb2.PERMISSION_DENIED, "PATH_NOT_ALLOWED", f"{field}: {reason}", violations)
