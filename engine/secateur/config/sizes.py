"""Numbers of bytes as options: ``512MiB``, ``2GiB``."""

from __future__ import annotations

import re

from secateur.errors import BadInput

UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def parse_bytes(field: str, size: str | int) -> int:
    """Read a number of bytes: ``512MiB``, ``2GiB``, ``1.5gib`` or a plain number of bytes.

    Raises:
        BadInput: it is none, naming the field.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(size).lower())
    if not match or match[2] not in UNITS:
        raise BadInput(field, size, "a size such as 512MiB or 2GiB, or a number of bytes")
    return int(float(match[1]) * UNITS[match[2]])


def show_bytes(size: int) -> str | int:
    """The text that `parse_bytes` reads: in MiB, if that is a whole number."""
    return size if size % 2**20 else f"{size // 2**20}MiB"
